// What the document's client takes for granted of Insieme's repository: a state, and events that change it.

import { fold } from "../../js/events.mjs";

export class Repository {
  #state = {};

  getState() {
    return structuredClone(this.#state);
  }

  restoreState(state) {
    this.#state = structuredClone(state);
  }

  async addEvent(event) {
    this.#state = fold(this.#state, structuredClone(event));
  }
}
