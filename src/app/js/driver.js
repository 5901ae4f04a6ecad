// What the engine calls. It calls the module; it takes and gives JSON as text.
((membrane, ticked) => {
  "use strict";

  const { parse, stringify } = JSON;
  const FINDINGS_MAX = 100;
  const TYPES_MAX = 1000;
  const KEYS = ["schemaVersion", "upcast", "schema", "allow", "check", "reduce"];
  const EXPORTS = ["version", "initialState", "authorize", "events", "migrate"];

  const held = { state: {} };
  /** What takes each staged event back, the oldest first. */
  let staged = [];
  let rules = null;
  let events = new Map();

  const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
  const kindOf = (value) => Object.prototype.toString.call(value).slice(8, -1);

  const synchronous = (result, what) => {
    if (result !== null && (typeof result === "object" || typeof result === "function") && "then" in result) {
      throw new TypeError(`${what} returned a promise: rules are synchronous`);
    }
    return result;
  };

  /** What a rule that says yes or no has said. `client.claims.boards?.includes(…)` is undefined where there are none. */
  const decided = (result, what) => {
    synchronous(result, what);
    if (result === undefined) return "false";
    if (typeof result !== "boolean") throw new TypeError(`${what} must return true or false`);
    return stringify(result);
  };

  /** The client with what its token says. */
  const bearer = ({ clientId, userId, roles = [], permissions = [], claims = {} }) => ({ clientId, userId, roles, permissions, claims });

  /** The client as the log knows it. What the token said is not there, and who asks for that is noted. */
  const ofLog = (client, asked) => {
    const get = (known, name) => {
      if (name !== "roles" && name !== "permissions" && name !== "claims") return known[name];
      asked();
      throw new TypeError(`the log does not keep client.${name}`);
    };
    return new Proxy(client, { get });
  };

  /** All that is wrong with the module, and what there is in it. */
  const describe = (namespace) => {
    const problems = [];
    const types = {};
    const isRule = (value, what) => {
      if (typeof value !== "function") problems.push(`${what} must be a function`);
      else if (kindOf(value) !== "Function") problems.push(`${what} must be a plain function, not async or a generator`);
    };
    const versions = (value, what, max) => {
      if (!isObject(value)) return problems.push(`${what} must be an object of functions by version`);
      for (const [key, lift] of Object.entries(value)) {
        const version = Number(key);
        if (!Number.isSafeInteger(version) || version < 1 || version > max) {
          problems.push(`${what}: ${key} is no version from 1 to ${max}`);
        }
        isRule(lift, `${what}[${key}]`);
      }
    };
    for (const name of Object.keys(namespace)) {
      if (!EXPORTS.includes(name)) problems.push(`the export ${name} means nothing; there are ${EXPORTS.join(", ")}`);
    }
    const { version, initialState, authorize, migrate } = namespace;
    if (!Number.isSafeInteger(version) || version < 1) problems.push("version must be a whole number from 1 on");
    if (initialState !== undefined) isRule(initialState, "initialState");
    if (authorize !== undefined) isRule(authorize, "authorize");
    if (migrate !== undefined) versions(migrate, "migrate", version);
    if (!isObject(namespace.events)) problems.push("events must be an object: the event types by name");
    const entries = isObject(namespace.events) ? Object.entries(namespace.events) : [];
    if (entries.length > TYPES_MAX) problems.push(`events has more than ${TYPES_MAX} types`);
    for (const [name, type] of entries.slice(0, TYPES_MAX)) {
      const what = `events[${stringify(name)}]`;
      if (!isObject(type)) {
        problems.push(`${what} must be an object`);
        continue;
      }
      for (const key of Object.keys(type)) {
        if (!KEYS.includes(key)) problems.push(`${what}.${key} means nothing; there are ${KEYS.join(", ")}`);
      }
      const { schemaVersion = 1, upcast = {}, schema, allow, check, reduce } = type;
      if (!Number.isSafeInteger(schemaVersion) || schemaVersion < 1) {
        problems.push(`${what}.schemaVersion must be a whole number from 1 on`);
      }
      versions(upcast, `${what}.upcast`, schemaVersion - 1);
      for (let from = 1; from < schemaVersion && isObject(upcast); from++) {
        if (upcast[from] === undefined && Object.keys(upcast).some((key) => Number(key) < from)) {
          problems.push(`${what}.upcast lacks version ${from}, so older payloads get no further`);
        }
      }
      if (schema !== undefined && !isObject(schema) && typeof schema !== "boolean") {
        problems.push(`${what}.schema must be a JSON Schema`);
      }
      if (allow !== undefined) isRule(allow, `${what}.allow`);
      if (check !== undefined) isRule(check, `${what}.check`);
      if (reduce !== undefined) isRule(reduce, `${what}.reduce`);
      const text = schema === undefined ? "true" : (stringify(schema) ?? "true");
      types[name] = { schemaVersion, schema: text, upcasts: Object.keys(upcast ?? {}).map(Number) };
      events.set(name, { upcast, allow, check, reduce });
    }
    if (problems.length === 0) rules = namespace;
    return stringify({ problems: problems.slice(0, FINDINGS_MAX), version, types, authorizes: authorize !== undefined });
  };

  const handed = (text) => {
    const { type, payload, event, partition, client } = parse(text);
    return { type, payload, event: { ...event, payload }, partition, client };
  };

  return {
    describe,
    /** Begins a partition: with a state, or the initial one. */
    open(text) {
      staged = [];
      // What was written down was a state, of whatever size.
      if (text !== "") held.state = parse(text);
      else {
        const state = rules.initialState === undefined ? {} : rules.initialState();
        held.state = membrane.admitState(synchronous(state, "initialState"), "initialState");
      }
    },
    /** The payload as the type's schema version has it. */
    lift(type, from, text) {
      const { upcast } = events.get(type);
      let payload = parse(text);
      for (let version = Number(from); upcast[version] !== undefined; version++) {
        payload = synchronous(upcast[version]({ payload, type, schemaVersion: version }), `upcast[${version}]`);
      }
      const lifted = stringify(payload);
      if (lifted === undefined) throw new TypeError("upcast returned nothing that is JSON");
      return lifted;
    },
    /** Whether this client may open the partition that it wants to open, or to commit in. */
    authorize(text) {
      const { client, partition, entered = partition } = parse(text);
      const allowed = membrane.read((wrap) => rules.authorize({ client: wrap(bearer(client)), partition: entered }));
      return decided(allowed, "authorize");
    },
    /** Whether this client may submit the event at all. */
    allow(text) {
      const given = handed(text);
      const { allow } = events.get(given.type);
      if (allow === undefined) return "true";
      const { type, partition } = given;
      const allowed = membrane.read((wrap) =>
        allow({ type, partition, payload: wrap(given.payload), client: wrap(bearer(given.client)) }));
      return decided(allowed, "allow");
    },
    /**
     * What the module's check has against an event. "asked" for one of the log if that depends on what the token said.
     */
    check(text, from) {
      const given = handed(text);
      const { check } = events.get(given.type);
      if (check === undefined) return "[]";
      const findings = [];
      const reject = (code, field = "payload", message = "") => {
        if (typeof code !== "string" || !/^[A-Z][A-Z0-9_]{0,63}$/.test(code)) {
          throw new TypeError("reject takes a code such as WIP_LIMIT first: capitals, digits, _");
        }
        if (typeof field !== "string" || typeof message !== "string") {
          throw new TypeError("reject takes a code, a field and a message, all of them strings");
        }
        if (findings.length < FINDINGS_MAX) findings.push({ code, field, message: message || code });
      };
      let isAsked = false;
      try {
        membrane.read((wrap) => {
          const { type, partition } = given;
          const known = wrap(bearer(given.client));
          const result = check({
            type, partition, reject, client: from === "log" ? ofLog(known, () => void (isAsked = true)) : known,
            state: wrap(held.state), payload: wrap(given.payload), event: wrap(given.event),
          });
          synchronous(result, "check");
          if (result !== undefined) throw new TypeError("check must return nothing: it calls reject for what it has against an event");
        });
      } catch (error) {
        if (!isAsked) throw error;
        membrane.abandon(held);
      }
      return isAsked ? "asked" : stringify(findings);
    },
    /** Folds an event, and keeps what takes it back. */
    reduce(text) {
      const { type, payload, event, partition } = handed(text);
      const { reduce } = events.get(type);
      const undo = reduce === undefined ? [] : membrane.write(held, (state) =>
        synchronous(reduce({ state, payload, event, partition, type }), "reduce"));
      staged.push(undo);
    },
    /** The first staged events are committed: they are not taken back any more. */
    keep(count) {
      staged.splice(0, Number(count));
    },
    /** Takes the last staged events back. */
    back(count) {
      for (let left = Number(count); left > 0 && staged.length > 0; left--) membrane.takeBack(held, staged.pop());
    },
    /** Takes back what was interrupted. */
    abandon() {
      membrane.abandon(held);
    },
    state: () => stringify(held.state),
    /** The state of version `from` as this version has it. */
    migrate(from) {
      for (let version = Number(from) + 1; version <= rules.version; version++) {
        const migrate = rules.migrate?.[version];
        if (migrate === undefined) continue;
        staged.push(membrane.write(held, (state) => synchronous(migrate({ state }), `migrate[${version}]`), Infinity));
      }
      staged = [];
    },
    /** Runs until the engine has counted: what runs next is counted from there. */
    align() {
      while (!ticked());
    },
  };
});
