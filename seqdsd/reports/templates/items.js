"use strict";
// Utterances, captions and classes: chosen, sorted, filtered and drawn as cards, some at a time.
{
  const AT_ONCE = 60;
  const byId = (id) => document.getElementById(id);
  const media = new Map(); // players and pictures by id, kept: one that plays goes on while cards are sorted
  let data = null;
  let group = null;
  let run = 0;
  let limit = AT_ONCE;

  const SORTS = {
    speech: { gain: "most improved", loss: "most worsened", score: "highest WER", id: "id" },
    captions: { gain: "largest gain", loss: "largest loss", score: "lowest BLEU", id: "file name" },
    classification: { gain: "put right", loss: "right no more", score: "wrong first", id: "file name" },
  };

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const option = (value, text) => make("option", { value, textContent: text });

  // What is chosen

  const view = () => group.views[Number(byId("view").value)];
  const shownColumns = () => {
    const place = Number(byId("column").value);
    return view().columns.map((column, index) => [...column, index]).filter((_, index) => place < 0 || index === place);
  };

  const offerViews = () => {
    const numbers = (one) => one.columns.map(([, column]) => column);
    const last = numbers(group.views.find((one) => one.run === run)).at(-1);
    const offered = group.views
      .map((one, index) => [one, index])
      .filter(([one]) => one.run === run || (one.run === null && numbers(one).includes(last)));
    const name = (one) => (one.run === null ? `last phase of every arm, seed ${one.seed}` : `phases of ${data.runs[one.run].label}`);
    byId("view").replaceChildren(...offered.map(([one, index]) => option(index, name(one))));
    offerColumns();
  };

  const offerColumns = () => {
    const all = view().columns.length > 1 ? [option(-1, "all")] : [];
    byId("column").replaceChildren(...all, ...view().columns.map(([title], index) => option(index, title)));
  };

  const offerSorts = () => {
    const kept = byId("sort").value;
    byId("sort").replaceChildren(...Object.entries(SORTS[group.kind]).map(([value, text]) => option(value, text)));
    if (kept) byId("sort").value = kept;
  };

  // What an item scores: more errors are worse, more BLEU is better

  const isError = () => group.kind !== "captions";

  const textOf = (item, column) => item.texts[item.said[column]];
  const numWords = (item) => (item.refs[0] ?? "").split(" ").filter(Boolean).length;
  const badness = (item, column) => {
    const score = textOf(item, column)[2];
    if (score === null) return 0;
    if (group.kind === "speech") return score / Math.max(1, numWords(item));
    return isError() ? score : -score;
  };
  const gain = (item) => {
    const { columns } = view();
    const [first, last] = [columns[0], columns.at(-1)].map(([, column]) => textOf(item, column)[2] ?? 0);
    return isError() ? first - last : last - first;
  };
  const changes = (item) => new Set(view().columns.map(([, column]) => item.said[column])).size > 1;

  const sorted = (items) => {
    const last = shownColumns().at(-1)[1];
    const by = {
      gain: (item) => -gain(item),
      loss: (item) => gain(item),
      score: (item) => -badness(item, last),
      id: () => 0,
    }[byId("sort").value];
    const ids = (one, other) => (one.id < other.id ? -1 : one.id > other.id ? 1 : 0);
    return [...items].sort((one, other) => by(one) - by(other) || ids(one, other));
  };

  const fits = (item, words) => {
    const said = shownColumns().map(([, column]) => textOf(item, column)[0]);
    const text = [item.id, ...item.refs, ...said].join(" ").toLowerCase();
    return words.every((word) => text.includes(word)) && (!byId("changed").checked || changes(item));
  };

  // Cards

  const alignedWords = (item, [hyp, ops]) => {
    const [refs, hyps] = [item.refs[0] ?? "", hyp].map((text) => text.split(" ").filter(Boolean));
    const pieces = {
      "=": (_, word) => word,
      S: (ref, word) => make("span", { className: "sub" }, make("del", {}, ref), " ", make("ins", {}, word)),
      D: (ref) => make("del", { className: "gone" }, ref),
      I: (_, word) => make("ins", { className: "added" }, word),
    };
    let [i, j] = [0, 0];
    const words = [...ops].map((op) => pieces[op](op === "I" ? null : refs[i++], op === "D" ? null : hyps[j++]));
    return words.flatMap((word, index) => (index ? [" ", word] : [word]));
  };

  const markedWords = ([hyp], marks) => {
    const words = hyp.split(" ").filter(Boolean);
    const pieces = [];
    let at = 0;
    for (const run of marks.match(/=+|\++|-/g) ?? []) {
      if (run === "-") pieces.push(make("span", { className: "gap", title: "words dropped" }, data.gap));
      else {
        const text = words.slice(at, at + run.length).join(" ");
        at += run.length;
        pieces.push(run[0] === "+" ? make("mark", {}, text) : text);
      }
    }
    return pieces.flatMap((piece, index) => (index ? [" ", piece] : [piece]));
  };

  const scoreText = (item, score) => {
    if (score === null) return "";
    if (group.kind === "captions") return score.toFixed(1);
    if (group.kind === "classification") return score ? "wrong" : "right";
    const words = numWords(item);
    return words ? `${score} of ${words} wrong` : `${score} too many`;
  };

  const bar = (score) => {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const rect = document.createElementNS(space, "rect");
    const set = (element, values) => Object.entries(values).forEach(([name, value]) => element.setAttribute(name, value));
    set(svg, { class: "bar", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    set(rect, { width: score, height: 1 });
    svg.append(rect);
    return svg;
  };

  const wordsOf = (item, text, place) => {
    if (group.kind === "captions") return markedWords(text, item.marks[group.views.indexOf(view())][place]);
    if (group.kind === "speech" && item.refs.length) return alignedWords(item, text);
    return text[0] ? [text[0]] : [];
  };

  const line = (item, [title, column, place]) => {
    const text = textOf(item, column);
    const score = make("span", { className: "score" }, scoreText(item, text[2]));
    const head = make("p", { className: "phase" }, make("span", { className: "name" }, title));
    if (group.kind === "captions" && text[2] !== null) head.append(bar(text[2]));
    head.append(score);
    const words = wordsOf(item, text, place);
    const none = group.kind === "classification" ? "(no class: the network gave no numbers)" : "(no words)";
    const said = words.length ? words : [make("span", { className: "gap" }, none)];
    return make("li", {}, head, make("p", { className: "caption" }, ...said));
  };

  const badge = (item) => {
    const value = gain(item);
    const trend = Math.abs(value) < 0.05 ? "same" : value > 0 ? "improved" : "worse";
    const sign = { improved: "▲", worse: "▼", same: "=" }[trend];
    const text = trend === "same" ? "same" : BADGES[group.kind](value);
    return make("p", { className: `badge ${trend}`, title: "from the first to the last" }, `${sign} ${text}`);
  };
  const signed = (value, text) => (value > 0 ? `+${text}` : text.replace("-", "−"));
  const BADGES = {
    speech: (value) => errorsText(-value),
    captions: (value) => signed(value, value.toFixed(1)),
    classification: (value) => (value > 0 ? "put right" : "right no more"),
  };
  const errorsText = (value) => `${signed(value, String(value))} error${Math.abs(value) === 1 ? "" : "s"}`;

  const mediaOf = (item) => {
    if (!item.media) return null;
    const key = `${group.views[0].run} ${item.id}`;
    if (!media.has(key)) {
      const isSound = group.kind === "speech";
      const element = isSound
        ? make("audio", { controls: true, preload: "none", src: item.media })
        : make("img", { src: item.media, alt: item.refs[0] ?? item.id, decoding: "async" });
      if (isSound) element.setAttribute("aria-label", `recording of ${item.id}`);
      media.set(key, element);
    }
    return media.get(key);
  };

  const pictureOf = (item) => {
    if (!item.spectrogram) return [];
    const figure = make("figure", { className: "spectrogram" });
    const image = make("img", { src: item.spectrogram, alt: `spectrogram of ${item.id}`, decoding: "async" });
    const words = item.words ?? [];
    const labels = words.map(([word, start, end], index) => {
      const label = make("span", { title: `${word}: ${start.toFixed(2)} to ${end.toFixed(2)} s` }, word);
      const room = (words[index + 1]?.[1] ?? item.seconds) - start; // the next word's start ends a label
      label.style.left = `${(100 * start) / item.seconds}%`;
      label.style.width = `${(100 * room) / item.seconds}%`;
      return label;
    });
    figure.append(image, ...labels);
    if (labels.length) figure.classList.add("timed");
    return [figure];
  };

  const references = (item) => {
    if (group.kind === "speech") {
      const text = item.refs.length ? item.refs[0] || "(nothing is said)" : "(not kept in the run folder)";
      return make("p", { className: "reference" }, make("span", { className: "name" }, "reference"), " ", text);
    }
    if (!item.refs.length) return make("p", { className: "note" }, "The run folder holds no references.");
    if (group.kind === "classification") {
      return make("p", { className: "reference" }, make("span", { className: "name" }, "class"), " ", item.refs[0]);
    }
    const title = item.refs.length === 1 ? "1 reference" : `${item.refs.length} references`;
    const list = make("ul", {}, ...item.refs.map((ref) => make("li", {}, ref)));
    return make("details", {}, make("summary", {}, title), list);
  };

  const card = (item) => {
    const head = make("header", {}, make("h3", {}, item.id), ...(view().columns.length > 1 ? [badge(item)] : []));
    const lines = make("ol", { className: "phases" }, ...shownColumns().map((column) => line(item, column)));
    const found = mediaOf(item);
    const isPictured = group.kind !== "speech" && found !== null;
    const player = group.kind === "speech" && found !== null ? [found] : [];
    const words = group.kind === "speech" ? [head, ...pictureOf(item), ...player, references(item), lines] : [head, lines, references(item)];
    const made = make("article", { className: `card ${group.kind}${isPictured ? " pictured" : ""}` });
    made.setAttribute("aria-label", item.id);
    made.dataset.id = item.id;
    if (isPictured) made.append(make("div", { className: "picture" }, found));
    made.append(make("div", { className: "words" }, ...words));
    return made;
  };

  // The list

  const list = () => {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = sorted(group.items.filter((item) => fits(item, words)));
    byId("cards").replaceChildren(...found.slice(0, limit).map(card));
    const noun = group.kind === "speech" ? "utterances" : "images";
    const total = group.items.length;
    byId("shown").textContent = found.length === total ? `${total} ${noun}` : `${found.length} of ${total} ${noun}`;
    byId("nothing").hidden = found.length > 0;
    const rest = found.length - limit;
    byId("more").hidden = rest <= 0;
    byId("more").textContent = `Show ${Math.min(rest, AT_ONCE)} more of ${rest}`;
  };

  const fresh = () => {
    limit = AT_ONCE;
    list();
  };

  const showRun = (number) => {
    run = number;
    const next = data.items.find((one) => one.runs.includes(run)) ?? null;
    const isOther = next !== group;
    group = next;
    for (const element of document.querySelectorAll("#items .of-kind")) element.hidden = element.dataset.kind !== group?.kind;
    byId("item-controls").hidden = group === null;
    const notes = group?.notes ?? ["What this run said cannot be shown."];
    byId("item-notes").replaceChildren(...notes.map((note) => make("li", {}, note)));
    if (group === null) {
      byId("cards").replaceChildren();
      byId("more").hidden = true;
      return;
    }
    if (isOther) offerSorts();
    offerViews();
    fresh();
  };

  byId("view").addEventListener("change", () => {
    offerColumns();
    fresh();
  });
  for (const id of ["column", "sort", "changed"]) byId(id).addEventListener("change", fresh);
  byId("find").addEventListener("input", fresh);
  byId("more").addEventListener("click", () => {
    const before = limit;
    limit += AT_ONCE;
    list();
    byId("cards").children[before]?.querySelector("h3")?.scrollIntoView({ block: "nearest" });
  });
  byId("item-controls").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("run-chosen", ({ detail }) => {
    data = detail.data;
    showRun(detail.run);
  });
}
