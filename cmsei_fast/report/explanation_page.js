"use strict";
(() => {
  const pair = JSON.parse(document.getElementById("pair").textContent);
  const picture = document.getElementById("picture");
  const labels = picture.querySelector(".labels");
  const step = document.getElementById("step");
  const told = document.getElementById("told");
  const said = document.getElementById("said");
  const shares = document.getElementById("shares");
  const marks = [...document.querySelectorAll("[data-relation]")];
  const nodes = document.querySelectorAll("[data-node]");
  const selves = document.querySelectorAll("[data-self]");
  const graph = document.querySelector(".graph");
  const listed = document.getElementById("lit");
  const options = {
    word: [...document.querySelectorAll("[data-word]")],
    region: [...picture.querySelectorAll("[data-region]")].sort((a, b) => a.dataset.region - b.dataset.region),
  };
  const names = {
    word: pair.words.map((word) => `“${word}”`),
    region: pair.regions.map((name, i) => `${name}\u00a0${i}`),
  };
  const LISTED = 8;
  const LABELLED = 6;
  const LIT = 5;
  const TEXT = 12; // height of a label, pixels of the screen

  let chosen = { kind: "word", place: pair.word }; // by focus or a click: stays
  let pointed = null; // by the pointer: while it is there

  const percent = (x) => (x >= 0.995 || x === 0 || x >= 0.1 ? (100 * x).toFixed(0) : (100 * x).toFixed(1)) + " %";
  const same = (a, b) => a !== null && b !== null && a.kind === b.kind && a.place === b.place;
  const view = () => document.querySelector("input[name=view]:checked").value;
  const through = () => document.querySelector("input[name=through]:checked")?.value === "1";
  const sum = (values) => values.reduce((a, b) => a + b, 0);

  /** A row vector times a matrix. */
  const times = (row, matrix) => matrix[0].map((_, j) => row.reduce((total, x, i) => total + x * matrix[i][j], 0));

  /** Shares of states told of the regions that the states came from (Explanation.rollout). */
  const spread = (row) => times(row, pair.rollouts[0]);

  /** Attention (words, regions) of the step that is chosen, with the queries' relevance and gate; null across levels. */
  function attention() {
    const steps = pair.views[view()];
    return steps ? steps[Math.min(Number(step.value), steps.length - 1)] : null;
  }

  const traced = new Map(); // by step: attention through the graph

  /** (words, regions) of a step as attended or through the graph, where a region that asks has the mean of the states it is in. */
  function looks(now) {
    if (!through()) return now.attention;
    if (!traced.has(now)) {
      const rows = now.attention.map(spread);
      const held = spread(pair.regions.map(() => 1));
      traced.set(now, pair.views.i2t?.includes(now) ? rows.map((row) => row.map((x, j) => x / Math.max(held[j], 1e-12))) : rows);
    }
    return traced.get(now);
  }

  const followed = new Map(); // by step: shares along the relations

  /** (words, relations): of what each word looks at, how much came along the edges of each relation (lit_relations). */
  function along(now) {
    const rows = now ? now.attention : [pair.region_weights];
    if (!followed.has(now)) {
      followed.set(now, rows.map((row) => {
        const total = Math.max(sum(row), 1e-12);
        const reached = pair.rollouts.map((_, layer) => (pair.rollouts[layer + 1] ? times(row, pair.rollouts[layer + 1]) : row));
        return pair.relations.map(({ edges }) => sum(edges.map(([layer, region, share]) => (share * reached[layer][region]) / total)));
      }));
    }
    return followed.get(now);
  }

  /** The relations that a word lights up: [number, share, mean over the words], those of the largest difference first. */
  function lightens(active, now) {
    if (!pair.relations.length || (now && active.kind !== "word")) return [];
    const shares = along(now);
    const own = shares[now ? active.place : 0];
    const usual = own.map((_, k) => sum(shares.map((row) => row[k])) / shares.length);
    const more = own.map((x, k) => (shares.length > 1 ? x - usual[k] : x));
    const best = own.map((_, k) => k).filter((k) => more[k] > 0).sort((a, b) => more[b] - more[a] || a - b);
    return best.slice(0, LIT).map((k) => [k, own[k], shares.length > 1 ? usual[k] : null]);
  }

  /** Shares of the words and of the regions that are lit; null where none of that kind are. */
  function lit(active, now) {
    if (!now) return { word: pair.word_weights, region: through() ? spread(pair.region_weights) : pair.region_weights };
    if (active.kind === "word") return { word: null, region: looks(now)[active.place] };
    return { word: looks(now).map((row) => row[active.place]), region: null };
  }

  function heading(active, now) {
    const way = through() ? ", through the graph" : "";
    if (!now) return `What the whole sentence looks at${way}`;
    const asks = (view() === "t2i") === (active.kind === "word");
    const name = names[active.kind][active.place];
    const others = active.kind === "word" ? "regions" : "words";
    if (!asks) return `How much ${others} look at ${name}${way}`;
    if (way) return `${name} looks at${way}`;
    const gate = now.gate ? `, gate ${now.gate[active.place].toFixed(2)}` : "";
    return `${name} looks at (relevance ${now.relevance[active.place].toFixed(2)}${gate})`;
  }

  /** How strongly each share is drawn, in [0, 1]: its part of the largest, all faint where they are about even. */
  function strengths(values) {
    const most = Math.max(...values, 1e-12);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const peaked = values.length > 1 ? (1 - mean / most) / (1 - 1 / values.length) : 1;
    return values.map((x) => (x / most) * (0.2 + 0.8 * peaked));
  }

  function list(kind, values) {
    const most = Math.max(...values, 1e-12);
    const best = values.map((x, i) => i).sort((a, b) => values[b] - values[a] || a - b).slice(0, LISTED);
    for (const i of best) {
      const line = document.createElement("li");
      for (const kind of ["name", "room", "share"]) {
        line.append(Object.assign(document.createElement("span"), { className: kind }));
      }
      line.children[0].textContent = names[kind][i];
      line.children[1].append(Object.assign(document.createElement("span"), { className: "bar" }));
      line.children[1].firstChild.style.width = `${(100 * values[i]) / most}%`;
      line.children[2].textContent = percent(values[i]);
      shares.append(line);
    }
    return best;
  }

  /** Names and shares on the strongest regions, each clear of those before it; what finds no room stays in the list. */
  function label(values, first) {
    labels.replaceChildren();
    const box = picture.viewBox.baseVal;
    const unit = box.width / (picture.getBoundingClientRect().width || box.width);
    const high = 1.45 * TEXT * unit;
    const taken = [];
    for (const i of first) {
      const group = document.createElementNS(picture.namespaceURI, "g");
      const ground = document.createElementNS(picture.namespaceURI, "rect");
      const text = document.createElementNS(picture.namespaceURI, "text");
      text.textContent = values ? `${names.region[i]}: ${percent(values[i])}` : names.region[i];
      text.setAttribute("font-size", TEXT * unit);
      group.append(ground, text);
      labels.append(group);
      const wide = text.getComputedTextLength() + 0.7 * TEXT * unit;
      const [x0, y0, x1, y1] = pair.boxes[i];
      const inside = [[x0, y0], [x0, y1 - high], [x1 - wide, y0], [x1 - wide, y1 - high]];
      const outside = [[x0, y0 - high], [x0, y1]];
      const places = y1 - y0 < 2.5 * high ? [...outside, ...inside] : [...inside, ...outside];
      for (let y = y0; y < y1 - high; y += high / 2) for (const x of [x0, (x0 + x1 - wide) / 2, x1 - wide]) places.push([x, y]);
      const place = places
        .map(([x, y]) => [Math.max(0, Math.min(x, box.width - wide)), Math.max(0, Math.min(y, box.height - high))])
        .find(([x, y]) => taken.every(([a, b, w]) => x >= a + w || x + wide <= a || y >= b + high || y + high <= b));
      if (!place) {
        group.remove();
        continue;
      }
      taken.push([...place, wide]);
      for (const [name, value] of Object.entries({ x: place[0], y: place[1], width: wide, height: high })) ground.setAttribute(name, value);
      ground.setAttribute("rx", 2 * unit);
      text.setAttribute("x", place[0] + 0.35 * TEXT * unit);
      text.setAttribute("y", place[1] + 1.08 * TEXT * unit);
    }
  }

  function show() {
    const active = pointed ?? chosen;
    const now = attention();
    const shown = lit(active, now);
    step.disabled = !now || pair.views[view()].length < 2;
    for (const kind of ["word", "region"]) {
      const values = shown[kind];
      const strength = values ? strengths(values) : null;
      options[kind].forEach((option, i) => {
        const own = now !== null && same(active, { kind, place: i });
        option.setAttribute("aria-selected", own);
        option.tabIndex = (chosen.kind === kind ? chosen.place : 0) === i ? 0 : -1;
        option.style.setProperty("--strength", strength ? strength[i].toFixed(3) : 0);
        option.setAttribute("aria-label", option.dataset.name + (values ? `, ${percent(values[i])}` : ""));
        const share = option.querySelector(".share");
        if (share) share.textContent = values ? percent(values[i]) : "";
      });
    }
    const title = heading(active, now);
    told.textContent = title;
    shares.replaceChildren();
    const [kind, values] = shown.region ? ["region", shown.region] : ["word", shown.word];
    const best = list(kind, values);
    if (!pointed) said.textContent = `${title}: ${best.slice(0, 3).map((i) => `${names[kind][i]} ${percent(values[i])}`).join(", ")}`;
    label(shown.region, shown.region ? best.slice(0, LABELLED) : [active.place]);
    mark(active, now);
  }

  /** Marks the relations of a region, or those that a word lights up, and lists the latter. */
  function mark(active, now) {
    const region = now !== null && active.kind === "region" ? String(active.place) : null;
    const lit = lightens(active, now);
    const numbers = new Set(lit.map(([k]) => String(k)));
    const ends = new Set();
    for (const relation of marks) {
      const own = relation.dataset.ends.split(" ");
      const on = region === null ? numbers.has(relation.dataset.relation) : own.includes(region);
      relation.classList.toggle("lit", on);
      if (on && region === null) own.forEach((end) => ends.add(end));
    }
    for (const node of nodes) node.classList.toggle("lit", ends.has(node.dataset.node));
    for (const row of selves) row.classList.toggle("lit", row.dataset.self === region);
    graph?.classList.toggle("chosen", numbers.size > 0);
    if (!listed) return;
    listed.hidden = !lit.length;
    const who = now && active.kind === "word" ? names.word[active.place] : "the sentence";
    listed.querySelector("h3").textContent = `Of what ${who} looks at, came along${now ? " (× the words’ mean)" : ""}`;
    listed.querySelector("ol").replaceChildren(...lit.map(([k, share, usual]) => {
      const line = document.createElement("li");
      const times = usual ? ` (${(share / usual).toFixed(1)} ×)` : "";
      line.textContent = `${pair.relations[k].said}: ${percent(share)}${times}`;
      return line;
    }));
  }

  function found(target) {
    const option = target instanceof Element ? target.closest("[data-word], [data-region]") : null;
    if (!option) return null;
    const kind = "word" in option.dataset ? "word" : "region";
    return { kind, place: Number(option.dataset[kind]) };
  }

  function point(to) {
    if (to === pointed || same(to, pointed)) return;
    pointed = to;
    show();
  }

  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  // On the picture's parent: a browser would take an SVG that listens to the focus for one to stop at.
  for (const box of [document.getElementById("words"), picture.parentElement]) {
    box.addEventListener("pointermove", (event) => point(found(event.target)));
    box.addEventListener("pointerleave", () => point(null));
    box.addEventListener("focusin", (event) => {
      const to = found(event.target);
      if (!to) return;
      chosen = to;
      pointed = null;
      show();
    });
    box.addEventListener("keydown", (event) => {
      const from = found(event.target);
      if (!from || event.altKey || event.ctrlKey || event.metaKey) return;
      const own = options[from.kind];
      const ends = { Home: 0, End: own.length - 1 };
      const to = event.key in ends ? ends[event.key] : from.place + (STEPS[event.key] ?? NaN);
      if (Number.isNaN(to)) return;
      event.preventDefault();
      own[(to + own.length) % own.length].focus();
    });
  }
  for (const input of document.querySelectorAll("input[name=view], input[name=through], #step")) input.addEventListener("change", show);
  new ResizeObserver(show).observe(picture);
  show();
})();
