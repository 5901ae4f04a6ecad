// Fills a partition.

import WebSocket from "ws";

/** Commits events as fast as a few plain connections can, each with some under way. */
export function write(url, partition, total, writers = 4) {
  const each = (index) =>
    new Promise((done, fail) => {
      const socket = new WebSocket(url);
      const send = (type, payload) => socket.send(JSON.stringify({ id: "m", type, timestamp: 0, payload }));
      let sent = 0;
      let answers = 0;
      const next = () => {
        for (; sent < total / writers && sent < answers + 100; sent += 1) {
          const event = { type: "set", payload: { target: `w${index}.k${sent % 50}`, value: sent } };
          send("submit_event", { draftId: `${sent}`, event });
        }
      };
      socket.on("error", fail);
      socket.on("open", () => send("connect", { clientId: `w${index}`, version: "1", partition }));
      socket.on("message", (data) => {
        const message = JSON.parse(data);
        if (message.type === "event_rejected" || message.type === "error") fail(new Error(data));
        if (message.type === "event_accepted") answers += 1;
        if (message.type !== "broadcast") next();
        if (answers < total / writers) return;
        socket.terminate();
        done();
      });
    });
  return Promise.all(Array.from({ length: writers }, (_, index) => each(index)));
}
