"use strict";
// The run that is chosen, and the charts. Items (items.js) and tables (tables.js) know nothing of them.
{
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const OPTIONS = {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true, // the page's policy forbids to make code of strings
    defaultStyle: false,
    tooltip: { disableDefaultStyle: true },
  };
  const views = new Map();
  const runChoice = byId("run");
  const chosen = { run: data.default_run, layer: 0, round: 0 };

  const runNow = () => data.runs[chosen.run];

  // What a chart draws

  const bandAt = (bands, epoch) => bands.find((band) => band.start < epoch && epoch < band.end)?.name ?? "";

  const points = (run, series, values, bands, from) =>
    values.flatMap((value, index) =>
      value === null || index + 1 < from
        ? []
        : [{ epoch: index + 1, phase: bandAt(bands, index + 1), value, series, line: run.label }],
    );

  const drawnBands = (bands, from) =>
    bands
      .filter((band) => band.end > from)
      .map((band) => ({ ...band, start: Math.max(band.start, from - 0.5), name: band.name.replace(" Iter", "\nIter") }));

  const firstEpoch = (bands) => (byId("zoom").checked && bands.length > 1 ? bands[0].end + 0.5 : 1);

  const NUMBERS = {
    fixed: () => ({}),
    arms: ({ runs, measure }) => {
      const own = runs.map((number) => data.runs[number]);
      const { bands } = own.reduce((one, other) => (other.curves.bands.length > one.curves.bands.length ? other : one)).curves;
      const from = firstEpoch(bands);
      const rows = own.flatMap((run) => points(run, run.arm, run.curves[measure], bands, from));
      return { sets: { points: rows, bands: drawnBands(bands, from) } };
    },
    run: ({ measures }) => {
      const run = runNow();
      const { bands } = run.curves;
      const from = firstEpoch(bands);
      const name = (one) => (one === "score" ? "dev" : one);
      const rows = measures.flatMap((one) => points(run, name(one), run.curves[one], bands, from));
      return { sets: { points: rows, bands: drawnBands(bands, from) } };
    },
    moment: ({ moment }) => {
      const round = runNow().weights[chosen.round];
      const layer = round?.layers[chosen.layer];
      const index = round?.moments.indexOf(moment) ?? -1;
      return layer && index >= 0 ? weightNumbers(layer, index) : null;
    },
  };

  const weightNumbers = (layer, index) => {
    const total = layer.weights || 1;
    const width = (layer.high - layer.low) / layer.histograms[0].length;
    // Exact zeros have a bar of their own: within their bin they would dwarf all others.
    const counted = (moment) =>
      layer.histograms[moment].map((count, bin) => {
        const low = layer.low + bin * width;
        const holdsZero = low <= 0 && 0 < low + width;
        const others = holdsZero ? Math.max(0, count - layer.zeros[moment]) : count;
        return { low, high: low + width, count: others, share: (100 * others) / total };
      });
    const tallest = Math.max(...layer.histograms.flatMap((_, moment) => counted(moment).map((bin) => bin.share)), 1e-9);
    const zeros = (100 * layer.zeros[index]) / total;
    const lines = layer.threshold === null ? [] : [{ x: -layer.threshold }, { x: layer.threshold }];
    const cut = zeros > 0 ? [{ x: 0, label: `${zeros.toFixed(1)} % at 0` }] : [];
    return { sets: { bins: counted(index), lines, zeros: zeros > 0 ? [{ share: zeros }] : [], cut }, params: { top: 1.1 * tallest, right: layer.high } };
  };

  // Drawing

  const draw = async (id) => {
    const { spec, draw: kind, ...what } = data.charts[id];
    const element = byId(id);
    const frame = element.closest("figure");
    if (frame.hidden || element.closest("[hidden]")) return;
    const numbers = NUMBERS[kind](what);
    frame.hidden = numbers === null;
    if (numbers === null) return;
    const { sets = {}, params = {} } = numbers;
    const view = views.get(id);
    if (view) {
      for (const [name, rows] of Object.entries(sets)) view.data(name, rows);
      for (const [name, value] of Object.entries(params)) view.signal(name, value);
      await view.runAsync();
      return;
    }
    const filled = { ...spec };
    if (spec.params) filled.params = spec.params.map((one) => (one.name in params ? { ...one, value: params[one.name] } : one));
    if (Object.keys(sets).length) filled.datasets = sets;
    // Within the element, whose role and label are for the whole: Vega would replace them.
    views.set(id, (await vegaEmbed(element.appendChild(document.createElement("div")), filled, OPTIONS)).view);
  };

  let queue = Promise.resolve();
  const drawAll = (...kinds) => {
    for (const [id, { draw: kind }] of Object.entries(data.charts)) {
      if (kinds.includes(kind)) queue = queue.then(() => draw(id));
    }
    return queue;
  };

  // The run that is chosen

  const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });

  const offerLayers = () => {
    const { weights } = runNow();
    const one = weights[chosen.round] ?? weights[0];
    const has = weights.length > 0;
    for (const element of document.querySelectorAll(".of-run-weights")) element.hidden = !has;
    for (const element of document.querySelectorAll(".no-weights")) element.hidden = has;
    if (!has) return;
    const name = byId("layer").selectedOptions[0]?.textContent;
    chosen.round = weights.indexOf(one);
    byId("round").replaceChildren(...weights.map((round, index) => option(index, round.round)));
    byId("round").value = chosen.round;
    byId("round-choice").hidden = weights.length < 2;
    byId("layer").replaceChildren(...one.layers.map((layer, index) => option(index, layer.name)));
    const same = one.layers.findIndex((layer) => layer.name === name);
    chosen.layer = same >= 0 ? same : one.largest;
    byId("layer").value = chosen.layer;
    byId("layer-said").textContent = one.layers[chosen.layer].said;
  };

  const showRun = () => {
    const run = runNow();
    for (const element of document.querySelectorAll(".of-run")) {
      element.hidden = !element.dataset.run.split(" ").includes(String(chosen.run));
    }
    for (const element of document.querySelectorAll("figure.of-kind")) element.hidden = element.dataset.kind !== run.kind;
    for (const element of document.querySelectorAll("[data-run-label]")) element.textContent = run.label;
    for (const element of document.querySelectorAll("figure.moment")) element.hidden = false;
    if (byId("layer")) offerLayers();
    document.dispatchEvent(new CustomEvent("run-chosen", { detail: { data, run: chosen.run } }));
  };

  runChoice?.addEventListener("change", () => {
    chosen.run = Number(runChoice.value);
    showRun();
    drawAll("run", "moment");
  });
  byId("layer")?.addEventListener("change", () => {
    chosen.layer = Number(byId("layer").value);
    byId("layer-said").textContent = runNow().weights[chosen.round].layers[chosen.layer].said;
    drawAll("moment");
  });
  byId("round")?.addEventListener("change", () => {
    chosen.round = Number(byId("round").value);
    offerLayers();
    drawAll("moment");
  });
  // What is folded up is not printed.
  addEventListener("beforeprint", () => {
    for (const element of document.querySelectorAll("details.panel")) element.open = true;
  });
  byId("zoom").addEventListener("change", () => drawAll("arms", "run"));

  for (const element of document.querySelectorAll(".choose")) element.hidden = false;
  if (runChoice) chosen.run = Number(runChoice.value); // browsers keep a form's state over a reload
  showRun();
  drawAll("fixed", "arms", "run", "moment").then(() => document.documentElement.classList.add("drawn"));
}
