/* Several answers side by side: a card for each, which fills as the engine writes. One is taken by its button, its
 * number or Escape closes all; what becomes of them is the caller's matter.
 */

class Answers {
  /* container: the element of the cards; count: how many */
  constructor(container, count) {
    Object.assign(this, {container, count, cards: [], bits: new Array(count).fill(0)});
    this.tokens = new Array(count).fill(0);
    this._take = () => {};
    this._onKey = (event) => this._key(event);
  }

  /* Show empty cards. `stop`: called when one is taken or all are dismissed.
   * -> a promise of the number of the one taken, null where none is */
  open(stop) {
    this.cards = Array.from({length: this.count}, (_, index) => this._card(index));
    const cards = makeElement("div", "answer-cards");
    cards.append(...this.cards.map((card) => card.element));
    this.container.replaceChildren(cards, this._end());
    this.container.hidden = false;
    document.addEventListener("keydown", this._onKey);
    return new Promise((resolve) => {
      this._take = (index) => {
        resolve(index);
        stop();
      };
    });
  }

  /* Return the line below the cards. */
  _end() {
    const end = makeElement("div", "answers-end");
    const close = makeElement("button", "", "Close");
    close.type = "button";
    close.addEventListener("click", () => this._take(null));
    end.append(makeElement("span", "", "Take one by its button or number. All are kept as versions."), close);
    return end;
  }

  _card(index) {
    const make = makeElement;
    const element = make("article", "answer");
    element.setAttribute("aria-label", `Answer ${index + 1}`);
    const text = make("p", "answer-text");
    text.tabIndex = 0;                  // it may scroll, also by keyboard
    const facts = make("span", "answer-facts");
    const button = make("button", "", `Take ${index + 1}`);
    button.type = "button";
    button.addEventListener("click", () => this._take(index));
    const end = make("div", "answer-end");
    end.append(facts, button);
    element.append(text, end);
    return {element, text, facts, button};
  }

  /* Append a piece to an answer. */
  add(index, piece) {
    const {text, facts} = this.cards[index];
    text.append(piece.text);
    this.bits[index] += piece.bits;
    this.tokens[index] += piece.tokens ?? 1;
    facts.textContent = `${this.bits[index].toFixed(0)} bits, ${(this.bits[index] / this.tokens[index]).toFixed(1)} `
      + "a token";
  }

  /* All are finished: the likeliest is named. */
  finish(results) {
    const costs = results.map(({tokens}, index) => (tokens > 0 ? this.bits[index] / tokens : Infinity));
    const likeliest = costs.indexOf(Math.min(...costs));
    results.forEach(({text, tokens}, index) => {
      const {facts, button} = this.cards[index];
      if (text === "") {
        facts.textContent = "empty";
        button.disabled = true;
      } else {
        facts.textContent += index === likeliest && this.count > 1 ? ", the likeliest" : "";
      }
    });
  }

  close() {
    document.removeEventListener("keydown", this._onKey);
    this.container.hidden = true;
    this.container.replaceChildren();
    this._take(null);
  }

  _key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return;
    if (event.target instanceof HTMLSelectElement || document.querySelector("dialog[open], :popover-open")) return;
    const index = /^[1-8]$/.test(event.key) ? Number(event.key) - 1 : -1;
    if (event.key === "Escape") this._take(null);
    else if (index >= 0 && index < this.count && !this.cards[index].button.disabled) this._take(index);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
