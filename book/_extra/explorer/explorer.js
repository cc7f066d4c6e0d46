// The page "Explore": recorded maps (RECORDED, of recorded.js) by pair, fit, filter and image, with
// orders added one after the other. The address holds what is shown.
"use strict";

(() => {
  const root = document.getElementById("explorer");
  const { panels, pictures } = RECORDED;
  const make = (tag, given = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), given);
    element.append(...children);
    return element;
  };
  const numbers = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Int16Array(bytes.buffer);
  };
  const decoded = new Map(); // panels are decoded when they are first shown
  const maps = (panel) => {
    if (!decoded.has(panel)) {
      const ways = Object.entries(panel.ways).map(([way, parts]) => [way, parts.map(numbers)]);
      decoded.set(panel, { target: numbers(panel.target), ways: Object.fromEntries(ways) });
    }
    return decoded.get(panel);
  };
  const SUPER = "⁰¹²³⁴⁵";
  const order = (k) => `x⁽${SUPER[k]}⁾`;

  // What is shown. "orders" counts how many are added, "at" is a position.
  const first = panels[0];
  const state = { pair: first.key, way: Object.keys(first.ways)[0], filter: 0, image: 0 };
  state.orders = first.ways[state.way].length;
  state.at = null;

  const panelOf = () => panels.find((panel) => panel.key === state.pair);
  const within = (value, count) => Math.min(Math.max(Math.trunc(Number(value)) || 0, 0), count);

  function settle() { // whatever the address says, show something that exists
    const panel = panelOf() ?? first;
    state.pair = panel.key;
    if (!(state.way in panel.ways)) state.way = Object.keys(panel.ways)[0];
    state.filter = within(state.filter, panel.filters.length - 1);
    state.image = within(state.image, panel.pictures.length - 1);
    state.orders = within(state.orders, panel.ways[state.way].length);
    const [height, width] = panel.size;
    if (state.at) state.at = [within(state.at[0], height - 1), within(state.at[1], width - 1)];
  }

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (!given.has("pair")) return;
    for (const name of ["pair", "way", "filter", "image", "orders"]) {
      if (given.has(name)) state[name] = given.get(name);
    }
    state.at = given.has("at") ? given.get("at").split(",") : null;
  }

  function write() {
    const { at, ...rest } = state;
    const query = new URLSearchParams(rest);
    if (at) query.set("at", at.join(","));
    history.replaceState(null, "", `#${query}`);
  }

  // One image's map of one filter, of the target or a part.
  function plane(array) {
    const panel = panelOf();
    const [height, width] = panel.size;
    const start = (state.image * panel.filters.length + state.filter) * height * width;
    const scale = panel.scale[state.filter];
    return Float64Array.from(array.subarray(start, start + height * width), (v) => v * scale);
  }

  function shown() { // the maps in the order in which they stand, each with its name
    const panel = panelOf();
    const held = maps(panel);
    const target = plane(held.target);
    const parts = held.ways[state.way].map(plane);
    const sum = target.map((_, i) =>
      parts.slice(0, state.orders).reduce((total, part) => total + part[i], 0));
    const added = [...Array(state.orders).keys()].map(order).join(" + ") || "nothing yet";
    const all = state.orders === parts.length;
    return [
      { name: "x*", said: "the target: what network B has", map: target },
      ...parts.map((map, k) => ({
        name: order(k), said: `part of order ${k}`, map, faded: k >= state.orders,
      })),
      { name: "sum", said: added, map: sum },
      {
        name: all ? "x^Δ" : "left",
        said: all ? "what all orders leave" : "left of x* so far",
        map: target.map((value, i) => value - sum[i]),
      },
    ];
  }

  const variance = (map) => {
    const mean = map.reduce((a, b) => a + b, 0) / map.length;
    return map.reduce((a, b) => a + (b - mean) ** 2, 0) / map.length;
  };
  // Blue, white, red, as the book's figures: the ends and the middle of ColorBrewer's RdBu.
  const ENDS = [[33, 102, 172], [247, 247, 247], [178, 24, 43]];
  function colour(share) { // from -1 to 1
    const [from, to] = share < 0 ? [ENDS[1], ENDS[0]] : [ENDS[1], ENDS[2]];
    return from.map((value, i) => Math.round(value + (to[i] - value) * Math.min(Math.abs(share), 1)));
  }

  // The page's parts, made once.
  const choice = (label, name) => {
    const select = make("select", { id: `explorer-${name}` });
    select.addEventListener("change", () => change({ [name]: select.value }));
    return [select, make("label", { htmlFor: select.id }, label, select)];
  };
  const [pairs, pairLabel] = choice("From which network to which", "pair");
  const [ways, wayLabel] = choice("Fitted", "way");
  const [filters, filterLabel] = choice("Filter of B", "filter");
  const slider = make("input", { type: "range", id: "explorer-orders", min: 0, step: 1 });
  const sliderSays = make("output", { htmlFor: slider.id });
  slider.addEventListener("input", () => change({ orders: slider.value }));
  const sliderLabel = make("label", { htmlFor: slider.id }, "Orders added: ", sliderSays, slider);
  const images = make("div", { className: "explorer-images" });
  images.setAttribute("role", "group");
  images.setAttribute("aria-label", "Image");
  const row = make("div", { className: "explorer-maps", tabIndex: 0 });
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", "Maps. Arrow keys move a position; Escape takes it away.");
  const scaleSays = make("p", { className: "explorer-scale" });
  const words = make("p", { className: "explorer-words" });
  words.setAttribute("aria-live", "polite");
  const table = make("tbody");
  const head = make("thead", {}, make("tr", {}, ...[
    "map", "smallest", "largest", "variance, as a share of that of x*", "here",
  ].map((text) => make("th", { scope: "col" }, text))));
  root.replaceChildren(
    make("div", { className: "explorer-choices" }, pairLabel, wayLabel, filterLabel, sliderLabel),
    images, row, scaleSays, words,
    make("details", { className: "explorer-numbers" },
      make("summary", {}, "The maps in numbers"), make("table", { className: "table" }, head, table)),
  );
  pairs.append(...panels.map((panel) => make("option", { value: panel.key }, panel.title)));

  const DRAWN = 8; // pixels of a canvas for a position, so that it stays sharp when it is scaled
  function draw(one, limit) {
    const [height, width] = panelOf().size;
    const canvas = make("canvas", { width: width * DRAWN, height: height * DRAWN });
    const pen = canvas.getContext("2d");
    one.map.forEach((value, i) => {
      pen.fillStyle = `rgb(${colour(value / limit)})`;
      pen.fillRect((i % width) * DRAWN, Math.floor(i / width) * DRAWN, DRAWN, DRAWN);
    });
    if (state.at) {
      const [top, left] = state.at.map((place) => place * DRAWN);
      pen.strokeStyle = "black";
      pen.lineWidth = 2;
      pen.strokeRect(left + 1, top + 1, DRAWN - 2, DRAWN - 2);
    }
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${one.name}, ${one.said}`);
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [
        Math.floor(((event.clientY - box.top) / box.height) * height),
        Math.floor(((event.clientX - box.left) / box.width) * width),
      ];
    };
    canvas.addEventListener("pointermove", (event) => change({ at: place(event) }));
    canvas.addEventListener("pointerdown", (event) => change({ at: place(event) }));
    return canvas;
  }

  const written = (value) => value.toFixed(2).replace("-", "−");
  function render() {
    const panel = panelOf();
    const [, width] = panel.size;
    const all = shown();
    // One scale for all maps of a filter and an image.
    const limit = Math.max(...all.flatMap(({ map }) => Array.from(map, Math.abs))) || 1;
    const index = state.at ? state.at[0] * width + state.at[1] : -1;

    pairs.value = state.pair;
    ways.replaceChildren(...Object.keys(panel.ways).map((way) => make("option", { value: way }, way)));
    ways.value = state.way;
    filters.replaceChildren(...panel.filters.map((name, k) => make("option", { value: k }, name)));
    filters.value = state.filter;
    slider.max = panel.ways[state.way].length;
    slider.value = state.orders;
    const said = all.at(-2).said;
    sliderSays.value = said;
    slider.setAttribute("aria-valuetext", said);

    if (images.dataset.pair !== state.pair) { // keep the buttons, and with them the focus
      images.dataset.pair = state.pair;
      images.replaceChildren(...panel.pictures.map((number, k) => {
        const name = `image ${k + 1}`;
        const button = make("button", { type: "button" });
        button.append(number < 0 ? name : make("img", { src: pictures[number], alt: name }));
        button.addEventListener("click", () => change({ image: k }));
        return button;
      }));
    }
    [...images.children].forEach((button, k) => {
      button.setAttribute("aria-pressed", k === state.image);
    });

    const number = panel.pictures[state.image];
    const picture = number < 0
      ? make("div", { className: "explorer-none" }, "not recorded: a photograph is its makers'")
      : make("img", { src: pictures[number], alt: `image ${state.image + 1}` });
    row.replaceChildren(
      make("figure", {}, picture, make("figcaption", {}, make("b", {}, "image"))),
      ...all.map((one) => make("figure", { className: one.faded ? "faded" : "" },
        draw(one, limit),
        make("figcaption", {}, make("b", {}, one.name), ` ${one.said}`,
          make("span", { className: "value" }, index < 0 ? "" : written(one.map[index]))))),
    );
    scaleSays.replaceChildren(
      make("span", { className: "explorer-bar", ariaHidden: "true" }),
      `One scale for all maps of this row: blue −${written(limit)}, white 0, red ${written(limit)}.`);

    const [target, rest] = [all[0], all.at(-1)];
    const share = Math.round((100 * variance(rest.map)) / (variance(target.map) || 1));
    words.textContent = `Image ${state.image + 1}, `
      + `${panel.filters[state.filter]}. Added: ${said}. Left: ${share} % of this map's variance.`
      + (state.at ? ` At row ${state.at[0] + 1}, column ${state.at[1] + 1}: `
        + `${all.map((one) => `${one.name} ${written(one.map[index])}`).join(", ")}.` : "");
    table.replaceChildren(...all.map((one) => make("tr", {}, ...[
      one.name, written(Math.min(...one.map)), written(Math.max(...one.map)),
      (variance(one.map) / (variance(target.map) || 1)).toFixed(3),
      index < 0 ? "–" : written(one.map[index]),
    ].map((text) => make("td", {}, text)))));
  }

  function change(given) {
    const had = JSON.stringify(state);
    Object.assign(state, given);
    settle();
    if (JSON.stringify(state) === had) return;
    write();
    render();
  }

  row.addEventListener("keydown", (event) => {
    const [height, width] = panelOf().size;
    const [y, x] = state.at ?? [Math.floor(height / 2), Math.floor(width / 2)];
    const moves = { ArrowUp: [y - 1, x], ArrowDown: [y + 1, x], ArrowLeft: [y, x - 1],
      ArrowRight: [y, x + 1], Escape: null };
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation(); // the theme turns pages with the arrow keys
    change({ at: moves[event.key] });
  });
  row.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") change({ at: null });
  });
  window.addEventListener("hashchange", () => { read(); settle(); render(); });
  read();
  settle();
  render();
})();
