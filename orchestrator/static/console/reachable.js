// What the theme leaves out for people without a mouse or a screen: a main landmark, names for its icons, and keys for
// what it made clickable without making it a button. Runs on every page, before the theme's own scripts start.
(function () {
  "use strict";

  // What an icon that stands alone does, by the words of the theme's own attribute.
  const NAMES = [
    ["sidebarDesktopOpen", "Show or hide the menu"],
    ["sidebarMobileOpen", "Show or hide the menu"],
    ["openUserLinks", "Account"],
    ["filterOpen", "Filters"],
    ["showActions", "Actions"],
    ["openActionsId", "Actions"],
    ["openTabsDropdown", "More tabs"],
    ["openRelatedWidgetWrapper", "Edit the related record"],
    ["showPassword", "Show or hide the password"],
    ["rowOpen", "Show or hide details"],
    ["openModal", "Close"],
    ["openTheme", "Light or dark"],
  ];
  const OTHERS = { "searchbar-submit": "Search", "/admin/": "Overview" };
  const BEHIND = ["changelist-filter-close"];
  const CLICKS = "x-on:click";

  function nameIcons(root) {
    for (const icon of root.querySelectorAll(".material-symbols-outlined")) {
      if (!icon.hasAttribute(CLICKS)) icon.setAttribute("aria-hidden", "true");
    }
  }

  function said(element) {
    const copy = element.cloneNode(true);
    copy.querySelectorAll(".material-symbols-outlined").forEach((icon) => icon.remove());
    return element.classList.contains("material-symbols-outlined") ? "" : copy.textContent.trim();
  }

  function nameControls(root) {
    for (const element of root.querySelectorAll("[x-on\\:click], a[href], button")) {
      const clicks = element.getAttribute(CLICKS) || "";
      if (BEHIND.includes(element.id) || element.hasAttribute("aria-label")) continue;
      const control = element.matches("a[href], button, input, select, textarea, summary, label");
      if (clicks && !control && !element.hasAttribute("role")) {
        element.setAttribute("role", "button");
        element.tabIndex = 0;
      }
      if (!said(element)) {
        const known = NAMES.find(([word]) => clicks.includes(word));
        const name = element.title || (known && known[1]) || OTHERS[element.id || element.getAttribute("href")];
        if (name) element.setAttribute("aria-label", name);
      }
    }
  }

  function nameRegions() {
    const main = document.getElementById("main") || document.getElementById("page");
    if (main && !document.querySelector("main, [role=main]")) main.setAttribute("role", "main");
    const menu = document.getElementById("nav-sidebar-inner");
    if (menu) menu.setAttribute("aria-label", "Menu");
    for (const box of document.querySelectorAll("[data-simplebar]")) {
      const name = box.closest("#changelist-filter") ? "Filters" : box.closest("nav") ? "Pages" : "More";
      box.setAttribute("data-simplebar-aria-label", name);
    }
    // The column of boxes that delete a row.
    for (const head of document.querySelectorAll("thead th:empty, thead th.lg\\:w-px")) {
      if (head.textContent.trim() || head.querySelector("*")) continue;
      const text = document.createElement("span");
      text.className = "for-readers";
      text.textContent = "Delete";
      head.append(text);
    }
    // Django's own two lists, whose help hangs on an element that may have no name.
    for (const help of document.querySelectorAll("span[aria-label]:not([role])")) help.setAttribute("role", "img");
  }

  document.addEventListener("DOMContentLoaded", () => {
    nameRegions();
    nameIcons(document);
    nameControls(document);
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    nameIcons(event.target);
    nameControls(event.target);
  });
  // Django draws its two lists when everything is there.
  window.addEventListener("load", () => setTimeout(nameRegions));
  document.addEventListener("keydown", (event) => {
    const element = event.target;
    if (!element.hasAttribute(CLICKS) || element.getAttribute("role") !== "button") return;
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    element.click();
  });
})();
