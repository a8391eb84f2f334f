(() => {
  const form = document.querySelector(".filter"), cards = [...document.querySelectorAll(".card")];
  const none = document.getElementById("none"), shown = document.getElementById("shown");
  const words = new Map(cards.map((card) => [card, card.textContent.toLowerCase()]));
  const apply = () => {
    const verdict = form.elements.verdict.value, reason = form.elements.reason.value;
    const text = form.elements.text.value.trim().toLowerCase();
    let count = 0;
    for (const card of cards) {
      const fits = (!verdict || card.dataset.status === verdict)
        && (!reason || card.dataset.reasons.split(" ").includes(reason))
        && (!text || words.get(card).includes(text));
      card.hidden = !fits;
      count += fits;
    }
    none.hidden = count > 0 || !cards.length;
    shown.textContent = `${count} shown`;
  };
  const reset = () => { form.reset(); apply(); };
  form.addEventListener("input", apply);
  document.getElementById("all").addEventListener("click", reset);
  for (const link of document.querySelectorAll("a[data-reason]")) {
    link.addEventListener("click", () => { form.reset(); form.elements.reason.value = link.dataset.reason; apply(); });
  }
  apply();
})();
