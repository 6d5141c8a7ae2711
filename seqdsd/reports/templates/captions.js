"use strict";
{
  const byId = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")].map((element) => ({
    element,
    id: element.dataset.id,
    gain: Number(element.dataset.gain),
    changes: Number(element.dataset.changes),
    text: [...element.querySelectorAll("[data-find]")].map((one) => one.textContent).join(" ").toLowerCase(),
  }));
  const orders = {
    gain: (one, other) => other.gain - one.gain,
    loss: (one, other) => one.gain - other.gain,
    changes: (one, other) => other.changes - one.changes,
    id: () => 0,
  };
  const compareIds = (one, other) => (one.id < other.id ? -1 : one.id > other.id ? 1 : 0);

  const sort = () => {
    const compare = orders[byId("sort").value];
    cards.sort((one, other) => compare(one, other) || compareIds(one, other));
    byId("cards").append(...cards.map((card) => card.element));
  };

  const filter = () => {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const onlyChanged = byId("changed").checked;
    let shown = 0;
    for (const card of cards) {
      const fits = (!onlyChanged || card.changes > 0) && words.every((word) => card.text.includes(word));
      card.element.hidden = !fits;
      shown += fits;
    }
    byId("shown").textContent = shown === cards.length ? `${shown} images` : `${shown} of ${cards.length} images`;
    byId("nothing").hidden = shown > 0;
  };

  const openReferences = (open) => {
    for (const card of cards) card.element.querySelector("details").open = open;
  };

  byId("sort").addEventListener("change", sort);
  byId("find").addEventListener("input", filter);
  byId("changed").addEventListener("change", filter);
  byId("refs").addEventListener("change", (event) => openReferences(event.target.checked));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  // Browsers keep a form's state over a reload.
  sort();
  filter();
  openReferences(byId("refs").checked);
  byId("controls").hidden = false;
}
