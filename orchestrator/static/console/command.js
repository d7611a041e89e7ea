// The page of a command: tasks are offered when they matter, and a form that was sent is not sent again.
"use strict";

(() => {
  document.addEventListener("DOMContentLoaded", () => {
    const choose = document.querySelector("form[data-choose]");
    const tasks = choose?.querySelector("[data-tasks]");
    if (choose && tasks) {
      const show = () => {
        const chosen = choose.querySelector("input[name=from]:checked")?.value;
        tasks.hidden = chosen !== "tasks";
        tasks.querySelector("select").disabled = tasks.hidden;
      };
      choose.addEventListener("change", (event) => {
        show();
        // Of "chosen tasks" nothing can be shown before some are chosen.
        if (event.target.name === "from" && event.target.value !== "tasks") choose.requestSubmit();
      });
      show();
    }
    for (const form of document.querySelectorAll("form[data-once]")) {
      form.addEventListener("submit", (event) => {
        if (form.dataset.sent) event.preventDefault();
        form.dataset.sent = "yes";
      });
    }
    // From the browser's cache the page comes back as it was left.
    window.addEventListener("pageshow", () => {
      for (const form of document.querySelectorAll("form[data-once]")) delete form.dataset.sent;
    });
  });
})();
