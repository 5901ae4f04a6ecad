// A network with a switch: what a client is given in place of WebSocket.

/** Gives `{ WebSocket, online, set(online) }`. While it is off, every socket fails, as without a network. */
export function networkWithSwitch(online) {
  const open = new Set();
  const network = { online, set, WebSocket: SwitchedSocket };

  function SwitchedSocket(url) {
    if (!network.online) return noSocket();
    const socket = new WebSocket(url);
    open.add(socket);
    socket.addEventListener("close", () => open.delete(socket));
    return socket;
  }

  function set(on) {
    network.online = on;
    if (on) {
      // What a browser tells when the network is back: the client tries at once.
      dispatchEvent(new Event("online"));
      return;
    }
    for (const socket of open) {
      const told = socket.onclose;
      socket.close();
      told?.(new CloseEvent("close", { code: 1006 }));
    }
  }

  return network;
}

/** A socket that leads nowhere. */
function noSocket() {
  const socket = { readyState: 3, onclose: null, send() {}, close() {} };
  queueMicrotask(() => socket.onclose?.(new CloseEvent("close", { code: 1006 })));
  return socket;
}
