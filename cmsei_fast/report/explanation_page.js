"use strict";
(() => {
  const pair = JSON.parse(document.getElementById("pair").textContent);
  const picture = document.getElementById("picture");
  const labels = picture.querySelector(".labels");
  const stepInput = document.getElementById("step");
  const titleElement = document.getElementById("shares-title");
  const announcement = document.getElementById("announcement");
  const shareList = document.getElementById("shares");
  const relationElements = [...document.querySelectorAll("[data-relation]")];
  const nodeElements = document.querySelectorAll("[data-node]");
  const selfElements = document.querySelectorAll("[data-self]");
  const graph = document.querySelector(".graph");
  const relationSection = document.getElementById("highlighted-relations");
  const options = {
    word: [...document.querySelectorAll("[data-word]")],
    region: [...picture.querySelectorAll("[data-region]")].sort((a, b) => a.dataset.region - b.dataset.region),
  };
  const names = {
    word: pair.words.map((word) => `“${word}”`),
    region: pair.regions.map((name, i) => `${name}\u00a0${i}`),
  };
  const MAX_LISTED = 8;
  const MAX_LABELS = 6;
  const MAX_HIGHLIGHTED = 5;
  const LABEL_SIZE = 12; // font size of a label in CSS pixels

  let selected = { kind: "word", index: pair.word }; // a word or region, by focus or a click
  let hovered = null; // the one under the pointer, which takes precedence while it is there

  const percent = (x) => (x >= 0.995 || x === 0 || x >= 0.1 ? (100 * x).toFixed(0) : (100 * x).toFixed(1)) + " %";
  const isSame = (a, b) => a !== null && b !== null && a.kind === b.kind && a.index === b.index;
  const view = () => document.querySelector("input[name=view]:checked").value;
  const isThroughGraph = () => document.querySelector("input[name=through]:checked")?.value === "1";
  const sum = (values) => values.reduce((a, b) => a + b, 0);

  /** The product of a row vector and a matrix. */
  const rowTimesMatrix = (row, matrix) => matrix[0].map((_, j) => row.reduce((total, x, i) => total + x * matrix[i][j], 0));

  /** Shares of the last states, redistributed to the regions from which these states came (Explanation.rollout). */
  const rollOut = (row) => rowTimesMatrix(row, pair.rollouts[0]);

  /** The selected step: attention (words, regions) and the queries' relevance and gate; null in the cross-level view. */
  function currentStep() {
    const steps = pair.views[view()];
    return steps ? steps[Math.min(Number(stepInput.value), steps.length - 1)] : null;
  }

  const graphAttention = new Map(); // cache: attention through the graph, by step

  /**
   * Attention (words, regions) of a step, plain or through the graph. Through the graph, a region as the query has the
   * mean over the states that it is part of.
   */
  function shownAttention(current) {
    if (!isThroughGraph()) return current.attention;
    if (!graphAttention.has(current)) {
      const rows = current.attention.map(rollOut);
      const totals = rollOut(pair.regions.map(() => 1));
      graphAttention.set(current, pair.views.i2t?.includes(current) ? rows.map((row) => row.map((x, j) => x / Math.max(totals[j], 1e-12))) : rows);
    }
    return graphAttention.get(current);
  }

  const relationShares = new Map(); // cache: results of sharesOfRelations, by step

  /** Shares (words, relations): how much of the attention to the regions came along the edges of a relation. */
  function sharesOfRelations(current) {
    const rows = current ? current.attention : [pair.region_weights];
    if (!relationShares.has(current)) {
      relationShares.set(current, rows.map((row) => {
        const total = Math.max(sum(row), 1e-12);
        const sharesAtLayer = pair.rollouts.map((_, layer) => (pair.rollouts[layer + 1] ? rowTimesMatrix(row, pair.rollouts[layer + 1]) : row));
        return pair.relations.map(({ edges }) => sum(edges.map(([layer, region, share]) => (share * sharesAtLayer[layer][region]) / total)));
      }));
    }
    return relationShares.get(current);
  }

  /** The relations that a word highlights: [index, share, mean over the words], those farthest above the mean first. */
  function highlightedRelations(active, current) {
    if (!pair.relations.length || (current && active.kind !== "word")) return [];
    const sharesByWord = sharesOfRelations(current);
    const ownShares = sharesByWord[current ? active.index : 0];
    const meanShares = ownShares.map((_, k) => sum(sharesByWord.map((row) => row[k])) / sharesByWord.length);
    const excess = ownShares.map((x, k) => (sharesByWord.length > 1 ? x - meanShares[k] : x));
    const order = ownShares.map((_, k) => k).filter((k) => excess[k] > 0).sort((a, b) => excess[b] - excess[a] || a - b);
    return order.slice(0, MAX_HIGHLIGHTED).map((k) => [k, ownShares[k], sharesByWord.length > 1 ? meanShares[k] : null]);
  }

  /** Shares by which words and regions are highlighted; null for a kind that is not. */
  function highlightedShares(active, current) {
    if (!current) return { word: pair.word_weights, region: isThroughGraph() ? rollOut(pair.region_weights) : pair.region_weights };
    if (active.kind === "word") return { word: null, region: shownAttention(current)[active.index] };
    return { word: shownAttention(current).map((row) => row[active.index]), region: null };
  }

  /** The title of the list of shares, which is also announced to screen readers. */
  function heading(active, current) {
    const suffix = isThroughGraph() ? ", through the graph" : "";
    if (!current) return `Attention of the sentence (p)${suffix}`;
    const isQuery = (view() === "t2i") === (active.kind === "word");
    const name = names[active.kind][active.index];
    const queries = active.kind === "word" ? "regions" : "words";
    if (!isQuery) return `Attention of ${queries} to ${name}${suffix}`;
    if (suffix) return `Attention of ${name}${suffix}`;
    const gate = current.gate ? `, gate ${current.gate[active.index].toFixed(2)}` : "";
    return `Attention of ${name} (relevance ${current.relevance[active.index].toFixed(2)}${gate})`;
  }

  /** How strongly each share is drawn, in [0, 1]: relative to the largest, and all faintly if they are about equal. */
  function strengths(values) {
    const largest = Math.max(...values, 1e-12);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const peakedness = values.length > 1 ? (1 - mean / largest) / (1 - 1 / values.length) : 1;
    return values.map((x) => (x / largest) * (0.2 + 0.8 * peakedness));
  }

  /** Lists the largest shares of a kind, and returns the indices of these words or regions. */
  function listShares(kind, values) {
    const largest = Math.max(...values, 1e-12);
    const strongest = values.map((x, i) => i).sort((a, b) => values[b] - values[a] || a - b).slice(0, MAX_LISTED);
    for (const i of strongest) {
      const item = document.createElement("li");
      for (const kind of ["name", "room", "share"]) {
        item.append(Object.assign(document.createElement("span"), { className: kind }));
      }
      item.children[0].textContent = names[kind][i];
      item.children[1].append(Object.assign(document.createElement("span"), { className: "bar" }));
      item.children[1].firstChild.style.width = `${(100 * values[i]) / largest}%`;
      item.children[2].textContent = percent(values[i]);
      shareList.append(item);
    }
    return strongest;
  }

  /** Labels regions with name and share, the strongest first. Labels do not overlap; those without room are left out. */
  function labelRegions(values, indices) {
    labels.replaceChildren();
    const box = picture.viewBox.baseVal;
    const unit = box.width / (picture.getBoundingClientRect().width || box.width);
    const height = 1.45 * LABEL_SIZE * unit;
    const placed = [];
    for (const i of indices) {
      const group = document.createElementNS(picture.namespaceURI, "g");
      const background = document.createElementNS(picture.namespaceURI, "rect");
      const text = document.createElementNS(picture.namespaceURI, "text");
      text.textContent = values ? `${names.region[i]}: ${percent(values[i])}` : names.region[i];
      text.setAttribute("font-size", LABEL_SIZE * unit);
      group.append(background, text);
      labels.append(group);
      const width = text.getComputedTextLength() + 0.7 * LABEL_SIZE * unit;
      const [x0, y0, x1, y1] = pair.boxes[i];
      const inside = [[x0, y0], [x0, y1 - height], [x1 - width, y0], [x1 - width, y1 - height]];
      const outside = [[x0, y0 - height], [x0, y1]];
      const candidates = y1 - y0 < 2.5 * height ? [...outside, ...inside] : [...inside, ...outside];
      for (let y = y0; y < y1 - height; y += height / 2) for (const x of [x0, (x0 + x1 - width) / 2, x1 - width]) candidates.push([x, y]);
      const position = candidates
        .map(([x, y]) => [Math.max(0, Math.min(x, box.width - width)), Math.max(0, Math.min(y, box.height - height))])
        .find(([x, y]) => placed.every(([a, b, w]) => x >= a + w || x + width <= a || y >= b + height || y + height <= b));
      if (!position) {
        group.remove();
        continue;
      }
      placed.push([...position, width]);
      for (const [name, value] of Object.entries({ x: position[0], y: position[1], width, height })) background.setAttribute(name, value);
      background.setAttribute("rx", 2 * unit);
      text.setAttribute("x", position[0] + 0.35 * LABEL_SIZE * unit);
      text.setAttribute("y", position[1] + 1.08 * LABEL_SIZE * unit);
    }
  }

  function render() {
    const active = hovered ?? selected;
    const current = currentStep();
    const shownShares = highlightedShares(active, current);
    stepInput.disabled = !current || pair.views[view()].length < 2;
    for (const kind of ["word", "region"]) {
      const values = shownShares[kind];
      const strength = values ? strengths(values) : null;
      options[kind].forEach((option, i) => {
        const isActive = current !== null && isSame(active, { kind, index: i });
        option.setAttribute("aria-selected", isActive);
        option.tabIndex = (selected.kind === kind ? selected.index : 0) === i ? 0 : -1;
        option.style.setProperty("--strength", strength ? strength[i].toFixed(3) : 0);
        option.setAttribute("aria-label", option.dataset.name + (values ? `, ${percent(values[i])}` : ""));
        const share = option.querySelector(".share");
        if (share) share.textContent = values ? percent(values[i]) : "";
      });
    }
    const title = heading(active, current);
    titleElement.textContent = title;
    shareList.replaceChildren();
    const [kind, values] = shownShares.region ? ["region", shownShares.region] : ["word", shownShares.word];
    const strongest = listShares(kind, values);
    if (!hovered) announcement.textContent = `${title}: ${strongest.slice(0, 3).map((i) => `${names[kind][i]} ${percent(values[i])}`).join(", ")}`;
    labelRegions(shownShares.region, shownShares.region ? strongest.slice(0, MAX_LABELS) : [active.index]);
    markRelations(active, current);
  }

  /** Highlights the relations of the active region, or those that the active word highlights, and lists the latter. */
  function markRelations(active, current) {
    const region = current !== null && active.kind === "region" ? String(active.index) : null;
    const highlighted = highlightedRelations(active, current);
    const numbers = new Set(highlighted.map(([k]) => String(k)));
    const highlightedNodes = new Set();
    for (const element of relationElements) {
      const ends = element.dataset.ends.split(" ");
      const isHighlighted = region === null ? numbers.has(element.dataset.relation) : ends.includes(region);
      element.classList.toggle("highlighted", isHighlighted);
      if (isHighlighted && region === null) ends.forEach((end) => highlightedNodes.add(end));
    }
    for (const node of nodeElements) node.classList.toggle("highlighted", highlightedNodes.has(node.dataset.node));
    for (const row of selfElements) row.classList.toggle("highlighted", row.dataset.self === region);
    graph?.classList.toggle("chosen", numbers.size > 0);
    if (!relationSection) return;
    relationSection.hidden = !highlighted.length;
    const name = current && active.kind === "word" ? names.word[active.index] : "the sentence";
    const way = current && view() === "i2t" ? "to" : "of";
    relationSection.querySelector("h3").textContent = `Attention ${way} ${name} that came along relations${current ? " (× mean of the words)" : ""}`;
    relationSection.querySelector("ol").replaceChildren(...highlighted.map(([k, share, meanShare]) => {
      const item = document.createElement("li");
      const ratio = meanShare ? ` (${(share / meanShare).toFixed(1)} ×)` : "";
      item.textContent = `${pair.relations[k].text}: ${percent(share)}${ratio}`;
      return item;
    }));
  }

  /** The word or region of an event's target; null elsewhere. */
  function optionAt(target) {
    const option = target instanceof Element ? target.closest("[data-word], [data-region]") : null;
    if (!option) return null;
    const kind = "word" in option.dataset ? "word" : "region";
    return { kind, index: Number(option.dataset[kind]) };
  }

  function hover(option) {
    if (option === hovered || isSame(option, hovered)) return;
    hovered = option;
    render();
  }

  const ARROW_STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  // The picture's parent listens, because browsers make an SVG with focus listeners a tab stop of its own.
  for (const container of [document.getElementById("words"), picture.parentElement]) {
    container.addEventListener("pointermove", (event) => hover(optionAt(event.target)));
    container.addEventListener("pointerleave", () => hover(null));
    container.addEventListener("focusin", (event) => {
      const target = optionAt(event.target);
      if (!target) return;
      selected = target;
      hovered = null;
      render();
    });
    container.addEventListener("keydown", (event) => {
      const from = optionAt(event.target);
      if (!from || event.altKey || event.ctrlKey || event.metaKey) return;
      const siblings = options[from.kind];
      const jumps = { Home: 0, End: siblings.length - 1 };
      const target = event.key in jumps ? jumps[event.key] : from.index + (ARROW_STEPS[event.key] ?? NaN);
      if (Number.isNaN(target)) return;
      event.preventDefault();
      siblings[(target + siblings.length) % siblings.length].focus();
    });
  }
  for (const input of document.querySelectorAll("input[name=view], input[name=through], #step")) input.addEventListener("change", render);
  new ResizeObserver(render).observe(picture);
  render();
})();
