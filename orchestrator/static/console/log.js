// The log of an attempt, read on from where it ended as long as the attempt runs.
"use strict";

window.upbeatLog = (() => {
  const EVERY = 1000;
  const LONGEST_PAUSE = 15000;
  // What a page keeps of a log; the rest is in the download.
  const MOST_CHARACTERS = 2_000_000;
  // Colours of terminals, which a page has no use for.
  const ESCAPES = /\u001b\[[0-9;?]*[A-Za-z]/g;

  const box = () => document.getElementById("task-log");
  let shown = null;

  function stop() {
    if (shown) {
      clearTimeout(shown.timer);
      shown.over = true;
    }
    shown = null;
    const found = box();
    if (found) found.hidden = true;
  }

  function open(url, attempt) {
    if (shown && shown.url === url) return;
    stop();
    const log = document.getElementById("log");
    log.textContent = "";
    document.getElementById("log-title").textContent = `Log of attempt ${attempt}`;
    document.getElementById("log-download").href = `${url}?download`;
    document.getElementById("log-earlier").hidden = true;
    box().hidden = false;
    shown = { url, offset: null, timer: 0, over: false, pause: EVERY, empty: true };
    read(shown);
  }

  function fromStart() {
    if (!shown) return;
    clearTimeout(shown.timer);
    const again = { url: shown.url, offset: 0, timer: 0, over: false, pause: EVERY, empty: true };
    shown.over = true;
    shown = again;
    document.getElementById("log").textContent = "";
    document.getElementById("log-earlier").hidden = true;
    document.getElementById("log-follow").checked = false;
    read(again);
  }

  function say(text) {
    document.getElementById("log-state").textContent = text;
  }

  async function read(of) {
    if (of.over) return;
    if (document.hidden && of.offset !== null) {
      of.timer = setTimeout(() => read(of), EVERY);
      return;
    }
    let answer;
    try {
      answer = await fetch(of.offset === null ? of.url : `${of.url}?offset=${of.offset}`, { credentials: "same-origin" });
      if (answer.redirected) throw new Error("you are no longer signed in");
      if (!answer.ok) throw new Error(answer.status === 404 ? "it is no longer there" : `the server answered ${answer.status}`);
      const text = await answer.text();
      if (of.over) return;
      append(of, text, answer);
      of.pause = EVERY;
    } catch (error) {
      if (of.over) return;
      of.pause = Math.min(of.pause * 2, LONGEST_PAUSE);
      say(`The log could not be read (${error.message}); it is tried again.`);
      of.timer = setTimeout(() => read(of), of.pause);
      return;
    }
    if (of.complete) return;
    of.timer = setTimeout(() => read(of), of.more ? 0 : EVERY);
  }

  function append(of, text, answer) {
    const log = document.getElementById("log");
    const follow = document.getElementById("log-follow").checked;
    const skipped = Number(answer.headers.get("X-Skipped")) || 0;
    if (skipped) document.getElementById("log-earlier").hidden = false;
    if (text) {
      of.empty = false;
      // Text nodes only: whatever a task wrote is shown, and never becomes part of the page.
      log.append(document.createTextNode(text.replace(ESCAPES, "")));
      let length = log.textContent.length;
      while (length > MOST_CHARACTERS && log.childNodes.length > 1) {
        length -= log.firstChild.length;
        log.firstChild.remove();
      }
    }
    const next = Number(answer.headers.get("X-Next-Offset"));
    of.more = text.length > 0 && next - (of.offset ?? skipped) > 200_000;
    of.offset = next;
    of.complete = answer.headers.get("X-Complete") === "true";
    if (of.complete) say(of.empty ? "The attempt wrote nothing." : "Complete.");
    else say(of.empty ? "Nothing yet; it is shown as it is written." : "Live: shown as it is written.");
    if (follow && text) log.scrollTop = log.scrollHeight;
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.getElementById("log-earlier")?.addEventListener("click", fromStart);
    const log = document.getElementById("log");
    const follow = document.getElementById("log-follow");
    // Who scrolls up wants to read; who comes back to the end wants to follow again.
    log?.addEventListener("scroll", () => {
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 8;
      if (!atEnd && follow.checked && log.scrollTop < (log.lastTop ?? 0)) follow.checked = false;
      log.lastTop = log.scrollTop;
    });
    follow?.addEventListener("change", () => {
      if (follow.checked) log.scrollTop = log.scrollHeight;
    });
  });

  return { open, stop, current: () => shown && shown.url };
})();
