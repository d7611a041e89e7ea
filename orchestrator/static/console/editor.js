// The editor of definitions: line numbers, the way from a problem to its line, indentation that goes on, and a warning
// before what was typed is lost. Checks while typing are htmx's.
"use strict";

(() => {
  document.addEventListener("DOMContentLoaded", () => {
    const form = document.querySelector("form[data-editor]");
    const area = document.getElementById("definition");
    const numbers = document.querySelector("[data-numbers]");
    const frame = document.querySelector(".e-frame");
    if (!form || !area || !numbers || !frame) return;

    const began = area.value;
    let leaving = false;
    let shown = 0;

    function measure() {
      const lines = area.value.split("\n");
      if (lines.length !== shown) {
        shown = lines.length;
        area.rows = shown;
        numbers.textContent = Array.from({ length: shown }, (_, index) => index + 1).join("\n");
      }
      // Where the browser cannot size a field by its content.
      if (!CSS.supports("field-sizing", "content")) {
        area.style.width = `${Math.max(...lines.map((line) => line.length)) + 4}ch`;
      }
    }

    function goTo(line, column) {
      const lines = area.value.split("\n");
      let start = 0;
      for (let index = 0; index < line - 1 && index < lines.length; index += 1) start += lines[index].length + 1;
      const end = start + (lines[line - 1] || "").length;
      area.focus({ preventScroll: true });
      area.setSelectionRange(Math.min(start + Math.max(column - 1, 0), end), end);
      const height = area.clientHeight / Math.max(area.rows, 1);
      frame.scrollTop = Math.max(0, (line - 1) * height - frame.clientHeight / 3);
      frame.scrollLeft = 0;
      frame.scrollIntoView({ block: "nearest" });
    }

    area.addEventListener("input", measure);
    measure();

    // A new line begins where the one before it did; Tab stays the way out of the field.
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      if (area.readOnly) return;
      const before = area.value.slice(0, area.selectionStart);
      const indent = before.slice(before.lastIndexOf("\n") + 1).match(/^ */)[0];
      if (!indent) return;
      event.preventDefault();
      area.setRangeText(`\n${indent}`, area.selectionStart, area.selectionEnd, "end");
      area.dispatchEvent(new Event("input", { bubbles: true }));
    });

    document.addEventListener("click", (event) => {
      const to = event.target.closest("[data-line]");
      if (!to) return;
      event.preventDefault();
      goTo(Number(to.dataset.line), Number(to.dataset.column || 1));
    });

    form.addEventListener("submit", () => {
      leaving = true;
    });
    window.addEventListener("pageshow", () => {
      leaving = false;
    });
    window.addEventListener("beforeunload", (event) => {
      if (!leaving && area.value !== began) event.preventDefault();
    });

    const first = document.querySelector("#findings [data-line]");
    if (first) goTo(Number(first.dataset.line), Number(first.dataset.column || 1));
  });
})();
