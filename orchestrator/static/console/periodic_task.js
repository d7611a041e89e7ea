// The form of a periodic task: says the chosen crontab in words below its field.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const texts = JSON.parse(document.getElementById("readable-crontabs")?.textContent ?? "{}");
  const chosen = document.getElementById("id_crontab");
  const row = chosen?.closest(".field-crontab");
  document.querySelectorAll(".field-crontab_translation").forEach((field) => field.setAttribute("hidden", ""));
  if (!row) {
    return;
  }
  const words = row.appendChild(document.createElement("p"));
  words.className = "text-xs";
  const say = () => {
    words.textContent = texts[chosen.value] ?? "";
  };
  // Django's own jQuery: the fields of the admin tell their changes through it.
  window.django?.jQuery?.(chosen).on("change", say);
  say();
});
