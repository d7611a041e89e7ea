// What every page of the console shares: refresh by htmx that asks for changes alone, counts on while nothing comes,
// stands still while nobody looks, and says so when the server does not answer.
"use strict";

(() => {
  const MINUTE = 60;
  const HOUR = 3600;
  const DAY = 86400;

  // The same words as `duration_words` on the server.
  function durationWords(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    if (whole < 2 * MINUTE) return `${whole} s`;
    if (whole < 2 * HOUR) return `${Math.floor(whole / MINUTE)} min ${whole % MINUTE} s`;
    if (whole < 2 * DAY) return `${Math.floor(whole / HOUR)} h ${Math.floor((whole % HOUR) / MINUTE)} min`;
    return `${Math.floor(whole / DAY)} d ${Math.floor((whole % DAY) / HOUR)} h`;
  }

  // Seconds by which the server's clock is ahead of this one; a laptop may be minutes off.
  let ahead = 0;
  function learnClock(date) {
    const server = Date.parse(date);
    // The header has whole seconds: only a real difference is taken over.
    if (!Number.isNaN(server) && Math.abs(server - Date.now() - ahead) > 2000) ahead = server - Date.now();
  }
  const now = () => Date.now() + ahead;

  function tick(root) {
    for (const element of root.querySelectorAll("[data-since]")) {
      const from = Date.parse(element.dataset.since);
      if (!Number.isNaN(from)) element.textContent = durationWords((now() - from) / 1000);
    }
  }

  window.upbeatConsole = { durationWords, now, tick };

  document.addEventListener("DOMContentLoaded", () => {
    tick(document);
    setInterval(() => {
      if (!document.hidden) tick(document);
    }, 1000);
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      tick(document);
      for (const live of document.querySelectorAll("[data-live][hx-get]")) htmx.trigger(live, "refresh");
    });

    const body = document.body;
    body.addEventListener("htmx:beforeRequest", (event) => {
      if (event.target.matches("[data-live]") && document.hidden) event.preventDefault();
    });
    body.addEventListener("htmx:configRequest", (event) => {
      const seen = event.detail.elt.dataset.seen;
      if (seen) event.detail.headers["X-Seen"] = seen;
    });
    body.addEventListener("htmx:afterRequest", (event) => {
      const { xhr, elt, successful } = event.detail;
      if (!elt.matches("[data-live]") || !xhr) return;
      setStale(!successful, xhr.status);
      const date = xhr.getResponseHeader("Date");
      if (date) learnClock(date);
      const seen = xhr.getResponseHeader("X-Seen");
      if (seen && successful) elt.dataset.seen = seen;
    });
    body.addEventListener("htmx:sendError", (event) => {
      if (event.detail.elt.matches("[data-live]")) setStale(true, 0);
    });

    // What a person has unfolded stays so.
    let open = [];
    body.addEventListener("htmx:beforeSwap", (event) => {
      open = [...event.detail.target.querySelectorAll("details[id][open]")].map((element) => element.id);
    });
    body.addEventListener("htmx:afterSwap", (event) => {
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      tick(event.detail.target);
    });
  });

  let staleSince = null;
  function setStale(stale, status) {
    const note = document.getElementById("refresh-note");
    if (!note) return;
    if (!stale) {
      staleSince = null;
      note.hidden = true;
      note.textContent = "";
      return;
    }
    staleSince = staleSince || new Date();
    const why = status === 403 ? "you are no longer signed in, or may no longer see this" :
      status === 404 ? "it is no longer there" :
      status ? `the server answered ${status}` : "the server does not answer";
    const text = `This page stands still since ${staleSince.toLocaleTimeString()}: ${why}. It is tried again.`;
    if (note.textContent !== text) note.textContent = text;
    note.hidden = false;
  }
  window.upbeatConsole.setStale = setStale;
})();
