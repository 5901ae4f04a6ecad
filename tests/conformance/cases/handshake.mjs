// The handshake, who is let in, and what may be said when.

import assert from "node:assert/strict";
import { VERSION } from "../lib/peer.mjs";

export default [
  {
    id: "connect-is-answered",
    title: "connect is answered with connected: clientId, projectId, projectLastCommittedId",
    spec: "Messages: connect -> connected.",
    async run(t) {
      const hello = t.hello();
      const peer = await t.socket();
      const answer = await peer.request("connect", hello);
      assert.equal(answer.type, "connected", JSON.stringify(answer));
      assert.equal(answer.payload.clientId, hello.clientId);
      assert.equal(answer.payload.projectId, hello.projectId);
      assert.equal(answer.payload.projectLastCommittedId, 0, "a project without events ends at 0");
    },
  },
  {
    id: "connected-tells-the-head",
    title: "projectLastCommittedId is the id of the project's last event",
    spec: "projectLastCommittedId: the partition's last event id.",
    async run(t) {
      const writer = await t.client("writer");
      const [, last] = await t.commit(writer, t.event(writer), t.event(writer));
      const elsewhere = await t.client("elsewhere", { project: t.name("project") });
      await t.commit(elsewhere, t.event(elsewhere));
      const reader = await t.client("reader");
      assert.equal(reader.connected.projectLastCommittedId, last.committedId);
    },
  },
  {
    id: "project-id-is-any-text",
    title: "a projectId may be any text: spaces, dots, stars, slashes, other scripts",
    spec: "projectId: the partition, a non-empty string.",
    async run(t) {
      const project = `${t.name("project")} a.b.*.>/ü 🦀 "q" \\`;
      const [writer, reader] = [await t.client("writer", { project }), await t.client("reader", { project })];
      const event = t.event(writer);
      await t.commit(writer, event);
      assert.equal((await reader.broadcast(event.id)).payload.projectId, project);
      assert.equal((await t.sync(reader))[0].projectId, project);
    },
  },
  {
    id: "envelope",
    title: "every message of the server is { type, protocolVersion, payload, msgId? }",
    spec: "Envelope: { type, protocolVersion: \"1.0\", payload, msgId?, timestamp? }.",
    async run(t) {
      const writer = await t.client("writer");
      const reader = await t.client("reader");
      await t.commit(writer, t.event(writer));
      await t.sync(writer);
      await writer.request("conformance.unknown", {});
      await t.flushed(reader, writer);
      const heard = [...writer.heard, ...reader.heard];
      const types = new Set(heard.map(({ type }) => type));
      assert.deepEqual(
        [...types].sort(),
        ["connected", "error", "event_broadcast", "submit_events_result", "sync_response"],
      );
      for (const message of heard) {
        assert.equal(message.protocolVersion, VERSION, JSON.stringify(message));
        assert.equal(typeof message.payload, "object");
        assert.ok(message.payload !== null && !Array.isArray(message.payload));
        assert.ok(["string", "undefined"].includes(typeof message.msgId), "msgId is a string where it is there");
      }
    },
  },
  {
    id: "msgid-is-repeated",
    title: "an answer repeats the msgId of the request, whatever the answer is",
    spec: "An answer repeats the request's msgId.",
    async run(t) {
      const peer = await t.socket();
      const early = await peer.request("sync", { projectId: t.project, sinceCommittedId: 0 }, { msgId: "early é \" 1" });
      assert.equal(early.type, "error");
      await peer.request("connect", t.hello(), { msgId: "hello" });
      peer.clientId = peer.heard.at(-1).payload.clientId;
      peer.project = t.project;
      await peer.request("sync", { projectId: t.project, sinceCommittedId: 0 }, { msgId: "first" });
      await peer.request("submit_events", { events: [t.event(peer)] }, { msgId: "second" });
      await peer.request("submit_events", { events: [] }, { msgId: "third" });
      await peer.request("conformance.unknown", {}, { msgId: "fourth" });
      assert.deepEqual(
        peer.heard.map(({ type, msgId }) => [type, msgId]),
        [
          ["error", "early é \" 1"],
          ["connected", "hello"],
          ["sync_response", "first"],
          ["submit_events_result", "second"],
          ["error", "third"],
          ["error", "fourth"],
        ],
      );
    },
  },
  {
    id: "msgid-may-be-empty",
    title: "an empty msgId is a msgId, and is repeated",
    spec: "An answer repeats the request's msgId.",
    async run(t) {
      const peer = await t.client();
      const from = peer.heard.length;
      peer.send("sync", { projectId: t.project, sinceCommittedId: 0 }, { msgId: "" });
      assert.equal((await peer.hears("an answer", () => true, from)).msgId, "");
    },
  },
  {
    id: "msgid-is-optional",
    title: "requests without msgId are answered, without one",
    spec: "Envelope: msgId is optional.",
    async run(t) {
      const peer = await t.socket();
      const ask = async (type, payload) => {
        const before = peer.heard.length;
        peer.text(JSON.stringify({ type, protocolVersion: VERSION, payload }));
        return peer.hears(`an answer to ${type}`, () => true, before);
      };
      const connected = await ask("connect", t.hello());
      assert.equal(connected.type, "connected");
      const page = await ask("sync", { projectId: t.project, sinceCommittedId: 0 });
      assert.equal(page.type, "sync_response");
      assert.equal(page.msgId, undefined, "there is no msgId to repeat");
    },
  },
  {
    id: "msgid-must-be-a-string",
    title: "a msgId that is no string is a bad_request, and the connection stays open",
    spec: "bad_request keeps the connection open.",
    async run(t) {
      const peer = await t.client();
      for (const msgId of [7, null, {}]) {
        const before = peer.heard.length;
        peer.text(JSON.stringify({ type: "sync", protocolVersion: VERSION, msgId, payload: { projectId: t.project, sinceCommittedId: 0 } }));
        t.isError(await peer.hears("an error", () => true, before), "bad_request");
      }
      await t.stays(peer);
    },
  },
  {
    id: "unknown-fields-are-ignored",
    title: "fields nobody knows change nothing",
    spec: "Envelope; the package's own client sends timestamp.",
    async run(t) {
      const peer = await t.socket();
      const answer = await peer.request("connect", { ...t.hello(), colour: "blue" }, { colour: "green", timestamp: Date.now() });
      assert.equal(answer.type, "connected");
    },
  },
  ...["sync", "submit_events", "heartbeat", "conformance.unknown"].map((type) => ({
    id: `nothing-before-connect-${type.replace(/[^a-z]+/g, "-")}`,
    title: `${type} before connect is a bad_request; connect is still possible`,
    spec: "States; bad_request keeps the connection open.",
    async run(t) {
      const peer = await t.socket();
      const hello = t.hello();
      peer.clientId = hello.clientId;
      peer.project = t.project;
      t.isError(
        await peer.request(type, { projectId: t.project, sinceCommittedId: 0, events: [t.event(peer)] }),
        "bad_request",
      );
      const answer = await peer.request("connect", hello);
      assert.equal(answer.type, "connected", "the connection stayed open for connect");
      assert.equal(answer.payload.projectLastCommittedId, 0, "nothing was committed before connect");
    },
  })),
  {
    id: "second-connect",
    title: "a second connect is a bad_request; the first one stays in force",
    spec: "States: connect only once; bad_request keeps the connection open.",
    async run(t) {
      const peer = await t.client();
      t.isError(await peer.request("connect", t.hello({ clientId: peer.clientId, project: t.name("project") })), "bad_request");
      await t.commit(peer, t.event(peer));
      await t.stays(peer);
    },
  },
  {
    id: "unknown-type",
    title: "a message of an unknown type is a bad_request, and the connection stays open",
    spec: "bad_request keeps the connection open.",
    async run(t) {
      const peer = await t.client();
      for (const type of ["conformance.unknown", "connected", "submit_event", ""]) {
        t.isError(await peer.request(type, {}), "bad_request");
      }
      await t.stays(peer);
    },
  },
  ...[
    ["no type", { type: undefined }],
    ["a type that is no string", { type: 7 }],
    ["no payload", { payload: undefined }],
    ["a payload that is null", { payload: null }],
    ["a payload that is text", { payload: "text" }],
  ].map(([what, overrides]) => ({
    id: `bad-envelope-${what.replaceAll(" ", "-")}`,
    title: `an envelope with ${what} is a bad_request, and the connection stays open`,
    spec: "bad_request keeps the connection open.",
    async run(t) {
      const peer = await t.client();
      t.isError(
        await peer.request("sync", { projectId: t.project, sinceCommittedId: 0 }, overrides),
        "bad_request",
      );
      await t.stays(peer);
    },
  })),
  ...["null", "42", "\"text\"", "true", "[]"].map((text) => ({
    id: `not-an-object-${{ "[]": "array", "\"text\"": "text" }[text] ?? text}`,
    title: `a message that is ${text} is a bad_request, and the connection stays open`,
    spec: "bad_request keeps the connection open.",
    async run(t) {
      const peer = await t.client();
      const before = peer.heard.length;
      peer.text(text);
      t.isError(await peer.hears("an error", () => true, before), "bad_request");
      await t.stays(peer);
    },
  })),
  {
    id: "not-json",
    title: "a message that is not JSON is a bad_request, and the connection stays open",
    spec: "bad_request keeps the connection open.",
    beyondReference: "the package's WebSocket bridge closes with 1003 and says nothing",
    async run(t) {
      const peer = await t.client();
      const before = peer.heard.length;
      peer.text("{\"type\":");
      t.isError(await peer.hears("an error", () => true, before), "bad_request");
      await t.stays(peer);
    },
  },
  {
    id: "not-json-harms-nobody-else",
    title: "a message that is not JSON is not passed over in silence, and harms no other connection",
    spec: "bad_request; a defect of one connection stays its own.",
    async run(t) {
      const other = await t.client("other");
      const peer = await t.client("peer");
      const before = peer.heard.length;
      peer.text("this is not JSON");
      await peer.until("an error or the end", () => (peer.heard.length > before || peer.closed ? true : undefined));
      await t.stays(other);
    },
  },
  ...[
    ["unsupported", "2.0"],
    ["a number", 1],
    ["missing", undefined],
  ].map(([what, protocolVersion]) => ({
    id: `version-${what.replaceAll(" ", "-")}`,
    title: `protocolVersion ${what}: protocolVersion_unsupported, and the connection closes`,
    spec: "protocolVersion_unsupported closes the connection.",
    async run(t) {
      const peer = await t.client();
      t.isError(
        await peer.request("sync", { projectId: t.project, sinceCommittedId: 0 }, { protocolVersion }),
        "protocolVersion_unsupported",
      );
      await peer.gone();
    },
  })),
  {
    id: "version-unsupported-at-connect",
    title: "connect with another protocolVersion: protocolVersion_unsupported, and the connection closes",
    spec: "protocolVersion_unsupported closes the connection.",
    async run(t) {
      const peer = await t.socket();
      t.isError(await peer.request("connect", t.hello(), { protocolVersion: "0.9" }), "protocolVersion_unsupported");
      await peer.gone();
    },
  },
  ...["token", "clientId", "projectId"].flatMap((field) =>
    [undefined, 7].map((value) => ({
      id: `connect-${value === undefined ? "without" : "with-a-number-as"}-${field}`,
      title: `connect ${value === undefined ? "without" : "with a number as"} ${field} is a bad_request; a right connect may follow`,
      spec: "bad_request keeps the connection open.",
      async run(t) {
        const peer = await t.socket();
        t.isError(await peer.request("connect", { ...t.hello(), [field]: value }), "bad_request");
        const answer = await peer.request("connect", t.hello());
        assert.equal(answer.type, "connected");
      },
    })),
  ),
  {
    id: "connect-with-an-empty-project",
    title: "connect with an empty projectId is a bad_request; a right connect may follow",
    spec: "bad_request keeps the connection open.",
    async run(t) {
      const peer = await t.socket();
      t.isError(await peer.request("connect", { ...t.hello(), projectId: "" }), "bad_request");
      assert.equal((await peer.request("connect", t.hello())).type, "connected");
    },
  },
  {
    id: "token-with-a-wrong-signature",
    title: "a token signed with another key: auth_failed, and the connection closes",
    spec: "auth_failed closes the connection.",
    needs: "claims",
    async run(t) {
      const peer = await t.socket();
      t.isError(await peer.request("connect", t.hello({ secret: "quite-another-secret-than-the-right-one" })), "auth_failed");
      await peer.gone();
    },
  },
  {
    id: "token-that-is-none",
    title: "a token that is no token: auth_failed, and the connection closes",
    spec: "auth_failed closes the connection.",
    needs: "claims",
    async run(t) {
      const peer = await t.socket();
      t.isError(await peer.request("connect", { ...t.hello(), token: "not a token" }), "auth_failed");
      await peer.gone();
    },
  },
  {
    id: "token-that-has-expired",
    title: "an expired token: auth_failed, and the connection closes",
    spec: "auth_failed closes the connection.",
    needs: "claims",
    async run(t) {
      const peer = await t.socket();
      t.isError(await peer.request("connect", t.hello({ expiresInSeconds: -3600 })), "auth_failed");
      await peer.gone();
    },
  },
  {
    id: "token-of-another-client",
    title: "a token of another client: auth_failed, and the connection closes",
    spec: "auth_failed closes the connection.",
    needs: "claims",
    async run(t) {
      const peer = await t.socket();
      t.isError(await peer.request("connect", { ...t.hello(), clientId: t.name("client") }), "auth_failed");
      await peer.gone();
    },
  },
  {
    id: "token-of-another-project",
    title: "a project the token does not allow: forbidden, and the connection closes",
    spec: "forbidden at connect closes the connection.",
    needs: "claims",
    async run(t) {
      const peer = await t.socket();
      t.isError(await peer.request("connect", { ...t.hello(), projectId: t.name("project") }), "forbidden");
      await peer.gone();
    },
  },
  {
    id: "token-expires-in-use",
    title: "a client whose token expires while it works gets auth_failed, and the connection closes",
    spec: "A token that expires closes the connection with auth_failed.",
    needs: "claims",
    async run(t) {
      const peer = await t.client("client", { expiresInSeconds: 2 });
      const working = setInterval(() => peer.send("sync", { projectId: t.project, sinceCommittedId: 0 }), 200);
      try {
        t.isError(await peer.hears("an error", ({ type }) => type === "error"), "auth_failed");
        await peer.gone();
      } finally {
        clearInterval(working);
      }
    },
  },
  {
    id: "token-expires-in-silence",
    title: "a client whose token expires while it only listens gets auth_failed, and the connection closes",
    spec: "A token that expires closes the connection with auth_failed.",
    needs: "claims",
    beyondReference: "the package's server looks at a session only when it says something",
    async run(t) {
      const peer = await t.client("client", { expiresInSeconds: 2 });
      t.isError(await peer.hears("an error", ({ type }) => type === "error"), "auth_failed");
      await peer.gone();
    },
  },
];
