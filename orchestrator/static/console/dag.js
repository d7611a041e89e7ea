// Draws a DAG whose places were computed on the server, and keeps the states of its tasks up to date.
"use strict";

window.upbeatDag = (() => {
  // From here on edges are plain lines from middle to middle: five times as fast.
  const MANY = 250;
  // And from here on without arrows: time goes from left to right anyway.
  const VERY_MANY = 1200;
  // Below this zoom a name cannot be read: show the part that matters instead of all of it.
  const READABLE = 0.6;
  const LONGEST_NAME = 22;
  const SMALLEST = 0.004;

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    const tones = {};
    for (const tone of ["good", "bad", "warn", "busy", "calm", "faint"]) {
      tones[tone] = {
        bg: value(`--tone-${tone}-bg`), ink: value(`--tone-${tone}-ink`), line: value(`--tone-${tone}-line`),
      };
    }
    return { tones, edge: value("--c-edge"), halo: value("--c-halo"), bad: tones.bad.line };
  }

  // The points of an edge, as shares of the way from border to border and distances from it.
  function bent([x1, y1], [x2, y2], points) {
    const [dx, dy] = [x2 - x1, y2 - y1];
    const length = Math.hypot(dx, dy) || 1;
    const along = ([x, y]) => ((x - x1) * dx + (y - y1) * dy) / (length * length);
    const aside = ([x, y]) => ((y - y1) * dx - (x - x1) * dy) / length;
    return { shares: points.map(along), distances: points.map(aside) };
  }

  function styles(legend, size, many, arrows) {
    const { tones, edge, halo, bad } = colours();
    const found = [
      {
        selector: "node",
        style: {
          shape: "round-rectangle", width: size[0], height: size[1], label: "data(label)",
          "text-valign": "center", "text-halign": "center", "font-size": 13, "font-family": "Inter, sans-serif",
          "border-width": 1.5, "min-zoomed-font-size": 6, "overlay-opacity": 0,
        },
      },
      {
        selector: "edge",
        style: many
          ? {
              "curve-style": "haystack", "haystack-radius": 0, width: 1, "line-color": edge, opacity: 0.6,
              "mid-target-arrow-shape": arrows ? "triangle" : "none", "mid-target-arrow-color": edge, "arrow-scale": 0.8,
              "overlay-opacity": 0,
            }
          : {
              "curve-style": "bezier", "source-endpoint": "90deg", "target-endpoint": "270deg", width: 1.5,
              "line-color": edge, "target-arrow-color": edge, "target-arrow-shape": "triangle", "arrow-scale": 0.9,
              "overlay-opacity": 0,
            },
      },
      {
        selector: "edge[shares]",
        style: {
          "curve-style": "round-segments", "edge-distances": "endpoints", "segment-radii": 24,
          "segment-weights": (found) => found.data("shares"), "segment-distances": (found) => found.data("distances"),
        },
      },
      // What does not wait for plain success: broken, and red where it waits for a failure.
      { selector: "edge[status]", style: { "line-style": "dashed" } },
      { selector: 'edge[status = "failed"]', style: { "line-color": bad, "target-arrow-color": bad } },
    ];
    for (const [letter, [state, , tone]] of Object.entries(legend)) {
      const { bg, ink, line } = tones[tone];
      found.push({
        selector: `node[s = "${letter}"]`,
        style: {
          "background-color": bg, color: ink, "border-color": line,
          // Beside the sign in the label: open tasks have a broken border, failures a thick one.
          "border-style": state === "waiting" || state === "skipped" || state === "ready" ? "dashed" : "solid",
          "border-width": tone === "bad" ? 3 : state === "running" ? 2.5 : 1.5,
        },
      });
    }
    found.push(
      { selector: "node.chosen", style: { "underlay-color": halo, "underlay-opacity": 0.45, "underlay-padding": 7 } },
      { selector: "edge.near", style: { "line-color": halo, "target-arrow-color": halo, width: 2.5, opacity: 1 } },
    );
    return found;
  }

  // `tasks[position].s` is the letter of a state. `choose(position)` is called when a person picks a task.
  function draw(container, drawing, tasks, legend, choose) {
    const [width, height] = drawing.size;
    const count = drawing.names.length;
    const many = count > MANY || drawing.edges.length > 3 * MANY;
    const arrows = count <= VERY_MANY && drawing.edges.length <= 3 * VERY_MANY;
    const label = (position) => {
      const name = drawing.names[position];
      const shown = name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;
      return `${legend[tasks[position].s][4]}  ${shown}`;
    };
    const elements = [];
    for (let position = 0; position < count; position += 1) {
      const [x, y] = drawing.places[position];
      elements.push({
        group: "nodes", data: { id: `t${position}`, p: position, s: tasks[position].s, label: label(position) },
        position: { x, y },
      });
    }
    drawing.edges.forEach(([up, down, status], index) => {
      const data = { id: `e${index}`, source: `t${up}`, target: `t${down}` };
      if (status) data.status = status;
      const points = many ? undefined : drawing.bends[index];
      if (points) {
        const [from, to] = [drawing.places[up], drawing.places[down]];
        Object.assign(data, bent([from[0] + width / 2, from[1]], [to[0] - width / 2, to[1]], points));
      }
      elements.push({ group: "edges", data });
    });

    let lowest = 0;
    let furthest = 0;
    for (const [x, y] of drawing.places) {
      if (y > lowest) lowest = y;
      if (x > furthest) furthest = x;
    }
    // As high as the picture needs at a readable size, within bounds that leave room for the rest of the page.
    const scale = Math.min(1, container.clientWidth / (furthest + width + 60));
    const wanted = (lowest + height) * Math.max(scale, READABLE) + 60;
    const most = Math.max(260, Math.min(window.innerHeight * 0.6, 640));
    container.style.height = `${Math.round(Math.min(Math.max(wanted, 150), most))}px`;

    const cy = cytoscape({
      container, elements, style: styles(legend, drawing.size, many, arrows), layout: { name: "preset", fit: false },
      minZoom: SMALLEST, maxZoom: 2, autoungrabify: true, boxSelectionEnabled: false, autounselectify: true,
      hideEdgesOnViewport: many, textureOnViewport: false, pixelRatio: many ? 1 : "auto",
    });
    cy.one("render", () => {
      // After the frame in which it was drawn.
      requestAnimationFrame(() => {
        performance.mark("dag-drawn");
        container.dataset.drawn = String(count);
      });
    });
    cy.on("tap", "node", (event) => choose(event.target.data("p")));
    cy.on("mouseover", "node", (event) => {
      const position = event.target.data("p");
      container.title = `${drawing.names[position]}: ${legend[tasks[position].s][1]}`;
      container.style.cursor = "pointer";
    });
    cy.on("mouseout", "node", () => {
      container.title = "";
      container.style.cursor = "";
    });

    // Where the picture was first placed, until a person moves it.
    let pointed = null;
    let looked = false;
    cy.on("dragpan scrollzoom pinchzoom", () => { looked = true; });

    const node = (position) => cy.getElementById(`t${position}`);
    function fit() {
      // By the places: asking the picture for its bounds takes as long as drawing it.
      const wanted = Math.min(1, (cy.width() - 48) / (furthest + width), (cy.height() - 48) / (lowest + height));
      // A zoom out of bounds would be left as it was.
      const zoom = Math.max(wanted, SMALLEST);
      cy.viewport({ zoom, pan: { x: cy.width() / 2 - (furthest / 2) * zoom, y: cy.height() / 2 - (lowest / 2) * zoom } });
    }
    function focus(position) {
      looked = true;
      if (cy.zoom() < READABLE) cy.zoom(0.8);
      cy.center(node(position));
    }
    // All of it where names stay readable; else what a person came for, with its left side in view.
    function first(position) {
      pointed = position;
      looked = false;
      cy.resize();
      fit();
      if (cy.zoom() >= READABLE) return;
      const zoom = 0.75;
      cy.zoom(zoom);
      const [x, y] = position === null ? [0, lowest / 2] : drawing.places[position];
      // In the middle, but never with nothing beside the first or the last tasks.
      const start = 24 + (width / 2) * zoom;
      const end = cy.width() - 24 - (furthest + width / 2) * zoom;
      const clamp = (value, low, high) => Math.min(Math.max(value, Math.min(low, high)), Math.max(low, high));
      cy.pan({
        x: clamp(cy.width() / 2 - x * zoom, end, start),
        y: lowest * zoom < cy.height() - 80 ? cy.height() / 2 - (lowest / 2) * zoom
          : clamp(cy.height() / 2 - y * zoom, cy.height() - 24 - (lowest + height / 2) * zoom, 24 + (height / 2) * zoom),
      });
    }
    function zoom(factor) {
      looked = true;
      cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
    }
    function update(positions) {
      cy.batch(() => {
        for (const position of positions) {
          const found = node(position);
          if (found.data("s") !== tasks[position].s) found.data({ s: tasks[position].s, label: label(position) });
        }
      });
    }
    function mark(position) {
      cy.batch(() => {
        cy.$(".chosen").removeClass("chosen");
        cy.$(".near").removeClass("near");
        if (position === null) return;
        const found = node(position);
        found.addClass("chosen");
        found.connectedEdges().addClass("near");
      });
    }

    new MutationObserver(() => cy.style(styles(legend, drawing.size, many, arrows))).observe(document.documentElement, {
      attributes: true, attributeFilter: ["class"],
    });
    new ResizeObserver(() => {
      const [before, above] = [cy.width(), cy.height()];
      cy.resize();
      if (!looked) first(pointed);
      // What a person has looked for stays in the middle.
      else cy.panBy({ x: (cy.width() - before) / 2, y: (cy.height() - above) / 2 });
    }).observe(container);
    return { cy, fit, focus, first, zoom, update, mark };
  }

  // The task that an arrow key leads to: along an edge to the sides, to the nearest above or below otherwise.
  function neighbour(drawing, position, key) {
    const [x, y] = drawing.places[position];
    let candidates;
    if (key === "ArrowRight") candidates = drawing.edges.filter(([up]) => up === position).map(([, down]) => down);
    else if (key === "ArrowLeft") candidates = drawing.edges.filter(([, down]) => down === position).map(([up]) => up);
    else {
      const sign = key === "ArrowDown" ? 1 : -1;
      candidates = drawing.places.map((_, other) => other).filter((other) => {
        const [ox, oy] = drawing.places[other];
        return (oy - y) * sign > 0 && Math.abs(ox - x) < 20;
      });
    }
    const distance = (other) => Math.abs(drawing.places[other][0] - x) + Math.abs(drawing.places[other][1] - y);
    return candidates.sort((a, b) => distance(a) - distance(b))[0] ?? null;
  }

  return { draw, neighbour };
})();
