// The page of a run: picture, table and panel from one copy of the run's tasks, which refreshes bring up to date.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const PAGE = 25;
  const data = JSON.parse(document.getElementById("run-data").textContent);
  const legend = data.legend;
  const { durationWords, now, tick } = window.upbeatConsole;
  const byId = (id) => document.getElementById(id);

  // By position. `s` is the letter of the state; what the run has not made yet waits.
  const tasks = [];
  let drawing = null;
  let picture = null;
  let chosen = null;
  let cursor = data.cursor;
  let needed = [];

  // --- the copy of the run's tasks

  function task(position) {
    if (!tasks[position]) tasks[position] = { s: "w", id: 0, attempts: 0, started: 0, ended: 0, due: 0, reason: "", carried: 0 };
    return tasks[position];
  }

  // Return the positions that changed.
  function take(delta) {
    const changed = new Set();
    for (const [position, id, s, attempts = 0, started = 0, ended = 0, due = 0, reason = "", carried = 0] of delta.rows) {
      Object.assign(task(position), { id, s, attempts, started, ended, due, reason, carried });
      changed.add(position);
    }
    needed = [];
    for (let position = 0; position < delta.states.length; position += 1) {
      const letter = delta.states[position];
      if (task(position).s !== letter || !task(position).id) {
        task(position).s = letter;
        changed.add(position);
        if (needed.length < 200) needed.push(position);
      }
    }
    cursor = delta.cursor;
    return changed;
  }

  take(data);
  needed = [];

  // --- refresh

  const live = byId("live");
  document.body.addEventListener("htmx:configRequest", (event) => {
    if (event.detail.elt !== live) return;
    event.detail.parameters.cursor = cursor;
    if (needed.length) event.detail.parameters.need = needed.join(",");
  });
  document.body.addEventListener("htmx:afterRequest", (event) => {
    const { elt, xhr, successful } = event.detail;
    if (elt !== live || !successful || !xhr.responseText.includes("run-delta")) return;
    const found = new DOMParser().parseFromString(xhr.responseText, "text/html").getElementById("run-delta");
    if (!found) return;
    const delta = JSON.parse(found.textContent);
    const changed = take(delta);
    show(changed);
    if ((delta.more || needed.length) && live.hasAttribute("hx-get")) setTimeout(() => htmx.trigger(live, "refresh"), 50);
  });

  function show(changed) {
    if (picture) picture.update([...changed].filter((position) => position < drawing.names.length));
    renderTable();
    renderJumps();
    if (chosen !== null && changed.has(chosen)) loadPanel();
    const transitions = byId("transitions");
    if (changed.size && transitions.open) htmx.trigger(transitions, "refresh");
  }

  // --- the picture

  const dag = byId("dag");
  const urgency = (position) => legend[task(position).s][5];
  const bad = (position) => legend[task(position).s][2] === "bad";

  function worst() {
    let found = null;
    for (let position = 0; position < drawing.names.length; position += 1) {
      if (urgency(position) < 5 && (found === null || urgency(position) < urgency(found))) found = position;
    }
    return found;
  }

  function renderJumps() {
    if (!drawing) return;
    const all = drawing.names.map((_, position) => position);
    document.querySelector('[data-dag="worst"]').hidden = !all.some(bad);
    document.querySelector('[data-dag="running"]').hidden = !all.some((position) => task(position).s === "r");
  }

  function jump(fits) {
    const found = drawing.names.map((_, position) => position).filter(fits);
    if (!found.length) return;
    choose(found.find((position) => chosen === null || position > chosen) ?? found[0]);
  }

  async function start() {
    const answer = await fetch(data.drawing, { credentials: "same-origin" });
    if (!answer.ok) {
      dag.textContent = "The picture could not be loaded; the table below has all tasks.";
      return;
    }
    drawing = await answer.json();
    drawing.names.forEach((_, position) => task(position));
    if (!drawing.names.length) {
      dag.hidden = true;
      byId("dag-empty").hidden = false;
    } else {
      picture = upbeatDag.draw(dag, drawing, tasks, legend, (position) => choose(position));
      picture.first(worst());
    }
    renderStates();
    renderTable();
    renderJumps();
    const asked = new URL(location.href).searchParams.get("task");
    if (asked !== null) chooseByName(asked, { scroll: false });
  }

  document.querySelectorAll("[data-dag]").forEach((button) =>
    button.addEventListener("click", () => {
      if (!picture) return;
      ({
        fit: () => picture.fit(), in: () => picture.zoom(1.3), out: () => picture.zoom(1 / 1.3),
        worst: () => jump(bad), running: () => jump((position) => task(position).s === "r"),
      })[button.dataset.dag]();
    }),
  );

  let pointed = null;
  dag.addEventListener("keydown", (event) => {
    if (!picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event;
    if (key === "+" || key === "=") picture.zoom(1.3);
    else if (key === "-") picture.zoom(1 / 1.3);
    else if (key === "0") picture.fit();
    else if (key === "Enter" || key === " ") {
      if (pointed !== null) choose(pointed, { focus: true });
    } else if (key.startsWith("Arrow")) {
      const from = pointed ?? chosen;
      const to = from === null ? (worst() ?? 0) : upbeatDag.neighbour(drawing, from, key);
      if (to !== null) point(to);
    } else return;
    event.preventDefault();
  });

  function point(position) {
    pointed = position;
    picture.mark(position);
    picture.focus(position);
    const [, word] = legend[task(position).s];
    byId("dag-told").textContent = `${drawing.names[position]}, ${word}, ${position + 1} of ${drawing.names.length}`;
  }

  // --- the panel

  const panel = byId("task");

  function choose(position, { focus = false, scroll = true } = {}) {
    const again = chosen === position;
    chosen = pointed = position;
    const wasOpen = !panel.hidden;
    panel.hidden = false;
    byId("run").classList.add("c-with-panel");
    if (picture) {
      picture.mark(position);
      // The panel takes some of the picture's room.
      if (wasOpen) picture.focus(position);
      else picture.first(position);
    }
    const url = new URL(location.href);
    url.searchParams.set("task", drawing.names[position]);
    history.replaceState(null, "", url);
    if (!again) upbeatLog.stop();
    renderTable();
    loadPanel().then(() => {
      if (focus) panel.focus({ preventScroll: true });
      if (scroll && panel.getBoundingClientRect().top > window.innerHeight * 0.75) panel.scrollIntoView({ block: "start" });
      else if (scroll && panel.getBoundingClientRect().top < 0) panel.scrollIntoView({ block: "start" });
    });
  }

  function chooseByName(name, options) {
    const position = drawing ? drawing.names.indexOf(name) : -1;
    if (position >= 0) choose(position, options);
    return position >= 0;
  }

  function close() {
    chosen = null;
    upbeatLog.stop();
    panel.hidden = true;
    byId("run").classList.remove("c-with-panel");
    byId("task-facts").textContent = "";
    if (picture) {
      picture.mark(null);
      picture.first(pointed);
    }
    const url = new URL(location.href);
    url.searchParams.delete("task");
    history.replaceState(null, "", url);
    renderTable();
    dag.focus({ preventScroll: true });
  }

  let loading = 0;
  async function loadPanel() {
    const mine = (loading += 1);
    const position = chosen;
    await htmx.ajax("GET", `${data.task}${position}/`, { target: "#task-facts", swap: "innerHTML" });
    if (mine !== loading || chosen !== position) return;
    // The log of the newest attempt, unless a person has opened another one of this task.
    const buttons = [...panel.querySelectorAll("[data-log]")];
    const open = upbeatLog.current();
    const newest = buttons[0];
    if (newest && (!open || !picked || !buttons.some((button) => button.dataset.log === open))) openLog(newest, false);
    markLog();
  }

  let picked = false;
  function openLog(button, byPerson) {
    picked = byPerson;
    upbeatLog.open(button.dataset.log, button.dataset.attempt);
    markLog();
  }
  function markLog() {
    for (const button of panel.querySelectorAll("[data-log]")) {
      button.setAttribute("aria-pressed", String(button.dataset.log === upbeatLog.current()));
    }
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-open-task]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      if (chooseByName(link.dataset.openTask, { focus: true })) event.preventDefault();
      return;
    }
    if (event.target.closest("[data-close-task]")) close();
    const log = event.target.closest("[data-log]");
    if (log) {
      openLog(log, true);
      byId("task-log").scrollIntoView({ block: "nearest" });
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && chosen !== null && !event.target.matches("input, select, textarea")) close();
  });

  // --- the table

  const body = byId("tasks-body");
  const search = byId("tasks-search");
  const order = byId("tasks-order");
  let only = null;
  let page = 0;

  const took = ({ started, ended }) => (started ? (ended || now()) - started : -1);
  const orders = {
    urgent: (a, b) => urgency(a) - urgency(b) || a - b,
    dag: (a, b) => a - b,
    longest: (a, b) => took(task(b)) - took(task(a)) || a - b,
    name: (a, b) => drawing.names[a].localeCompare(drawing.names[b]),
  };

  function clock(moment) {
    const at = new Date(moment);
    const two = (value) => String(value).padStart(2, "0");
    return `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())} UTC`;
  }

  function element(name, classes, text) {
    const found = document.createElement(name);
    if (classes) found.className = classes;
    if (text !== undefined) found.textContent = text;
    return found;
  }

  function badge(letter) {
    const [state, word, tone, icon] = legend[letter];
    const found = element("span", `c-badge c-tone-${tone}`);
    found.dataset.state = state;
    const symbol = element("span", "material-symbols-outlined", icon);
    symbol.setAttribute("aria-hidden", "true");
    found.append(symbol, word);
    return found;
  }

  function row(position) {
    const of = task(position);
    const found = element("tr");
    found.dataset.task = drawing.names[position];
    if (position === chosen) found.className = "c-chosen";
    const name = element("td");
    const open = element("button", "c-link", drawing.names[position]);
    open.type = "button";
    open.dataset.openTask = drawing.names[position];
    name.append(open);
    let why = of.reason;
    if (of.s === "a" && of.due) why = `next attempt ${clock(of.due)}${why ? ` · ${why}` : ""}`;
    if (of.carried) why = `taken over from an earlier run${why ? ` · ${why}` : ""}`;
    // Where there is no room for a column of its own.
    if (why) name.append(element("div", "c-narrow c-subtle", why));
    const state = element("td");
    state.append(badge(of.s));
    const started = element("td", "c-wide");
    if (of.started) {
      const time = element("time", "c-time", clock(of.started));
      time.title = new Date(of.started).toISOString();
      started.append(time);
    } else started.textContent = "–";
    const lasted = element("td", "c-number");
    const milliseconds = took(of);
    const span = element("span", "c-time");
    if (milliseconds < 0) span.textContent = "–";
    else if (of.ended) span.textContent = milliseconds < 10000 ? `${(milliseconds / 1000).toFixed(2)} s` : durationWords(milliseconds / 1000);
    else if (of.s === "r") {
      span.dataset.since = new Date(of.started).toISOString();
      span.textContent = durationWords(milliseconds / 1000);
    } else span.textContent = "–";
    lasted.append(span);
    found.append(name, state, element("td", "c-number c-wide", of.attempts || "–"), started, lasted, element("td", "c-reason c-wide", why || "–"));
    return found;
  }

  function renderTable() {
    if (!drawing) return;
    renderStates();
    const text = search.value.trim().toLowerCase();
    const shown = [];
    for (let position = 0; position < drawing.names.length; position += 1) {
      const of = task(position);
      if (only !== null && of.s !== only) continue;
      if (text && !drawing.names[position].toLowerCase().includes(text) && !of.reason.toLowerCase().includes(text)) continue;
      shown.push(position);
    }
    shown.sort(orders[order.value]);
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const focused = document.activeElement?.closest?.("#tasks-body [data-open-task]")?.dataset.openTask;
    body.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(row));
    if (focused !== undefined) {
      [...body.querySelectorAll("[data-open-task]")].find((button) => button.dataset.openTask === focused)?.focus({ preventScroll: true });
    }
    const none = byId("tasks-none");
    none.hidden = shown.length > 0;
    none.textContent = drawing.names.length ? "No task fits the search and the state." : "This version has no tasks.";
    byId("tasks-count").textContent = shown.length === drawing.names.length ? `(${shown.length})` : `(${shown.length} of ${drawing.names.length})`;
    byId("tasks-pages").hidden = pages < 2;
    byId("tasks-page").textContent = `${page * PAGE + 1} to ${Math.min((page + 1) * PAGE, shown.length)} of ${shown.length}`;
    document.querySelector('[data-page="-1"]').disabled = page === 0;
    document.querySelector('[data-page="1"]').disabled = page === pages - 1;
    tick(body);
  }

  function renderStates() {
    const counts = {};
    drawing.names.forEach((_, position) => {
      counts[task(position).s] = (counts[task(position).s] || 0) + 1;
    });
    if (only !== null && !counts[only]) only = null;
    const letters = Object.keys(counts).sort((a, b) => legend[a][5] - legend[b][5]);
    const box = byId("tasks-states");
    const key = letters.map((letter) => `${letter}${counts[letter]}`).join() + only;
    if (box.dataset.key === key) return;
    box.dataset.key = key;
    const focused = document.activeElement?.dataset?.letter;
    box.replaceChildren(
      ...[null, ...letters].map((letter) => {
        const chip = element("button", `c-chip${letter === null ? "" : ` c-tone-${legend[letter][2]}`}`);
        chip.type = "button";
        chip.dataset.letter = letter ?? "";
        chip.setAttribute("aria-pressed", String(only === letter));
        if (letter === null) chip.append("All");
        else {
          const symbol = element("span", "material-symbols-outlined", legend[letter][3]);
          symbol.setAttribute("aria-hidden", "true");
          chip.append(symbol, `${counts[letter]} ${legend[letter][1]}`);
        }
        return chip;
      }),
    );
    if (focused !== undefined) box.querySelector(`[data-letter="${focused}"]`)?.focus({ preventScroll: true });
  }

  byId("tasks-states").addEventListener("click", (event) => {
    const chip = event.target.closest(".c-chip");
    if (!chip) return;
    only = chip.dataset.letter || null;
    page = 0;
    renderTable();
  });
  search.addEventListener("input", () => {
    page = 0;
    renderTable();
  });
  order.addEventListener("change", () => {
    page = 0;
    renderTable();
  });
  byId("tasks-pages").addEventListener("click", (event) => {
    const button = event.target.closest("[data-page]");
    if (!button) return;
    page += Number(button.dataset.page);
    renderTable();
    byId("tasks").scrollIntoView({ block: "start" });
  });

  start();
});
