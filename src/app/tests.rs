//! Modules in the engine, in this process. What ends a process is tried in `tests/stories/rules_command.rs`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::engine::Engine;
use super::sources::Sources;
use super::verdict::{FaultKind, Verdict};
use crate::rules::tests::properties::{event as built_in_event, forest};
use crate::state::Node;

struct Texts(HashMap<String, String>);

impl Sources for Texts {
    fn fetch(&mut self, name: &str) -> Result<String, String> {
        self.0.get(name).cloned().ok_or_else(|| format!("there is no {name}"))
    }
}

fn load(files: &[(&str, &str)]) -> Result<Engine, Vec<String>> {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Engine::load("rules.js", Rc::new(RefCell::new(Texts(files))))
}

/// A module of one event type `e`.
fn one(body: &str) -> Engine {
    opened(&format!("export const version = 1;\nexport const events = {{ e: {{ {body} }} }};"))
}

fn opened(text: &str) -> Engine {
    let mut engine = load(&[("rules.js", text)]).unwrap();
    engine.open(None).unwrap();
    engine
}

fn event(event_type: &str, payload: &Value) -> String {
    json!({
        "type": event_type, "payload": payload, "partition": "p",
        "event": { "id": "d1", "type": event_type, "partition": "p", "clientId": "c1", "userId": null, "serverTs": 7,
            "schemaVersion": null, "meta": null },
        "client": { "clientId": "c1", "userId": null },
    })
    .to_string()
}

fn review(engine: &mut Engine, payload: Value) -> Verdict {
    engine.review(&event("e", &payload)).unwrap()
}

fn state(engine: &mut Engine) -> String {
    String::from_utf8(Node::parse(engine.state().unwrap().as_bytes()).unwrap().canonical()).unwrap()
}

/// Loads the state again from its own JSON.
fn reread(engine: &mut Engine) {
    let text = state(engine);
    engine.open(Some(&text)).unwrap();
}

fn codes(verdict: &Verdict) -> Vec<String> {
    verdict.errors.iter().map(|error| format!("{} {}", error.code, error.field)).collect()
}

const BOARD: &str = include_str!("../cli/rules/template/rules.js");

#[test]
fn a_module_decides_and_folds() {
    let mut engine = opened(BOARD);
    let mut submit = |event_type: &str, payload: Value| engine.review(&event(event_type, &payload)).unwrap();
    assert_eq!(submit("column.added", json!({ "id": "a", "title": "A" })).errors, []);
    for id in ["1", "2", "3", "4", "5"] {
        assert_eq!(submit("card.added", json!({ "id": id, "title": "t", "column": "a" })).errors, []);
    }
    let full = submit("card.added", json!({ "id": "6", "title": "t", "column": "a" }));
    assert_eq!(codes(&full), ["COLUMN_FULL payload.column"]);
    assert_eq!(full.errors[0].message, "this column takes at most five cards");
    let two = submit("card.added", json!({ "id": "1", "title": "t", "column": "none" }));
    assert_eq!(codes(&two), ["CARD_EXISTS payload.id", "COLUMN_NOT_FOUND payload.column"]);
    assert!(two.fault.is_some() && !two.is_folded, "a log that holds it does not fold it: {two:?}");
    let schema = submit("card.added", json!({ "id": "", "column": "a", "extra": 1 }));
    assert!(schema.errors.iter().any(|error| error.code == "SCHEMA_ERROR"), "{schema:?}");
    assert_eq!(codes(&submit("card.eaten", json!({}))), ["UNKNOWN_EVENT_TYPE type"]);
}

#[test]
fn what_is_wrong_with_a_module_is_told_all_at_once() {
    let text = "export const events = { e: { check: 1, reduce: async () => {}, cheque: 2, schema: { type: 'strin' } } };\n\
                export const extra = 1;";
    let problems = load(&[("rules.js", text)]).err().unwrap().join("\n");
    for part in [
        "version must be",
        "check must be a function",
        "not async",
        "cheque means nothing",
        "extra means nothing",
        "schema: ",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    let where_ = load(&[("rules.js", "export const version = 1;\nexport const events = {;")])
        .err()
        .unwrap()
        .join("\n");
    assert!(where_.contains("SyntaxError") && where_.contains("rules.js:2"), "{where_}");
    let thrown = load(&[("rules.js", "const a = 1;\n\nnull.x;")]).err().unwrap().join("\n");
    assert!(thrown.contains("TypeError") && thrown.contains("rules.js:3"), "{thrown}");
    let waits = load(&[("rules.js", "await new Object(); await 1;")]);
    assert!(waits.is_err() || waits.is_ok_and(|_| false), "a module without events is none");
    let endless = load(&[("rules.js", "for (;;);")]).err().unwrap().join("\n");
    assert!(endless.contains("too many steps"), "{endless}");
}

#[test]
fn a_module_imports_from_its_folder_and_nothing_else() {
    let good = [
        (
            "rules.js",
            "import { n } from './lib/n.js'; import { set } from 'insieme:actions';\nexport const version = n; export const events = { set };",
        ),
        ("lib/n.js", "import { m } from '../m.js'; export const n = m + 1;"),
        ("m.js", "export const m = 2;"),
    ];
    let engine = load(&good).unwrap();
    assert_eq!((engine.version(), engine.types()), (3, vec!["set"]));
    for (import, why) in [
        ("fs", "lies in its folder"),
        ("../x.js", "out of the module's folder"),
        ("./none.js", "there is no none.js"),
        ("insieme:os", "nothing else"),
    ] {
        let text = format!("import '{import}'; export const version = 1; export const events = {{}};");
        let problems = load(&[("rules.js", &text)]).err().unwrap().join("\n");
        assert!(problems.contains(why), "{import}: {problems}");
    }
    for later in ["import('./late.js')", "(async () => { await 1; state.late = 1; })()"] {
        let mut engine = one(&format!(
            "reduce: ({{ state, payload }}) => {{ state.x = payload; if (payload === 1) {later}; }}"
        ));
        let fault = review(&mut engine, json!(1)).fault.unwrap();
        assert!(fault.message.contains("synchronous"), "{later}: {fault}");
        assert_eq!(state(&mut engine), "{}", "{later}");
        assert!(review(&mut engine, json!(2)).is_folded);
        assert_eq!(state(&mut engine), "{\"x\":2}", "{later}");
    }
    let mut engine = one("reduce: () => { const f = async () => { await 1; f(); }; f(); }");
    assert!(engine.review(&event("e", &json!(1))).is_err(), "what goes on for ever ends the engine");
}

#[test]
fn what_differs_between_machines_or_moments_is_not_there() {
    for (use_, why) in [
        ("Date.now()", "event.serverTs"),
        ("new Date()", "event.serverTs"),
        ("Math.random()", "let the client choose"),
        ("Math.sin(1)", "last digit"),
        ("'a'.localeCompare('b')", "language"),
        ("(1).toLocaleString()", "language"),
        ("new Intl.NumberFormat()", "Intl"),
        ("Promise.resolve(1)", "synchronous"),
        ("setTimeout(() => {}, 1)", "synchronous"),
        ("eval('1')", "folder"),
        ("new Function('return 1')()", "folder"),
        ("(() => {}).constructor('return 1')()", "folder"),
        ("(async () => {}).constructor('return 1')()", "folder"),
        ("new WeakRef({})", "memory"),
        ("console.log(1)", "throw an Error"),
        ("globalThis.cache = 1", "extensible"),
        ("Array.prototype.last = 1", "extensible"),
        ("Object.prototype.x = 1", "extensible"),
    ] {
        let mut engine = one(&format!("reduce: ({{ state }}) => {{ state.x = 0; {use_}; }}"));
        let verdict = review(&mut engine, json!(1));
        let fault = verdict.fault.clone().unwrap_or_else(|| panic!("{use_}: {verdict:?}"));
        assert!(fault.message.contains(why), "{use_}: {fault}");
        assert!(fault.trace.contains("rules.js:2"), "{use_}: {fault:?}");
        assert_eq!(
            (codes(&verdict), state(&mut engine)),
            (vec!["RULE_FAILED payload".to_owned()], "{}".to_owned())
        );
    }
}

/// Frozen prototypes must not take from a module what every program does.
#[test]
fn ordinary_programs_run() {
    for program in [
        "class Bad extends Error { constructor(text) { super(text); this.name = 'Bad'; this.message = text; } }\n\
         try { throw new Bad('b'); } catch (error) { state.x = `${error}`; }",
        "const o = {}; o.toString = () => 'Bad: b'; state.x = `${o}`;",
        "const o = {}; o.valueOf = () => 3; state.x = o + 1 === 4 ? 'Bad: b' : '';",
        "class A { toString() { return 'Bad: b'; } } state.x = `${new A()}`;",
        "const m = new Map([['a', 'Bad: b']]); const { a } = Object.fromEntries(m); state.x = a;",
        "state.x = [...'Bad: b'].map((c) => c).join('');",
        "state.x = 'bad: b'.replace(/b(?=a)/, (c) => c.toUpperCase());",
        "const o = Object.assign({}, { constructor: 'Bad: b' }); state.x = o.constructor;",
    ] {
        let mut engine = one(&format!("reduce: ({{ state }}) => {{ {program} }}"));
        assert_eq!(review(&mut engine, json!(1)).fault, None, "{program}");
        assert_eq!(state(&mut engine), "{\"x\":\"Bad: b\"}", "{program}");
    }
}

#[test]
fn what_json_cannot_hold_is_refused_where_it_is_made() {
    for (value, why) in [
        ("undefined", "undefined"),
        ("NaN", "NaN"),
        ("-1 / 0", "-Infinity"),
        ("() => {}", "a function"),
        ("Symbol('a')", "a symbol"),
        ("10n", "a bigint"),
        ("new Map()", "a Map"),
        ("new (class Card {})()", "a Card"),
        ("Object.create(null)", "plain objects"),
        ("[1, , 2]", "holes"),
        ("{ get a() { return 1; } }", "getter"),
        ("{ [Symbol.iterator]: 1 }", "symbol"),
        ("{ a: { b: [undefined] } }", "undefined"),
        ("'\\ud800'", "surrogate"),
        ("JSON.parse('{\"__proto__\":1}')", "__proto__"),
        ("(() => { const a = {}; a.a = a; return a; })()", "contains itself"),
        ("{ whole: state }", "contains itself"),
        ("'x'.repeat(600000).split('')", "bytes into the state"),
    ] {
        let mut engine =
            one(&format!("reduce: ({{ state }}) => {{ state.a = {{ k: [1] }};\nstate.x = {value}; }}"));
        let verdict = review(&mut engine, json!(1));
        let fault = verdict.fault.unwrap_or_else(|| panic!("{value} was taken: {}", state(&mut engine)));
        assert!(fault.message.contains(why), "{value}: {fault}");
        assert_eq!(state(&mut engine), "{}", "{value}");
    }
    for (change, why) in [
        ("state.list[3] = 1", "holes"),
        ("state.list.length = 9", "holes"),
        ("delete state.list[0]", "splice"),
        ("state.list.name = 1", "no field"),
        ("state.__proto__ = {}", "__proto__"),
        ("Object.freeze(state)", "frozen"),
        ("Object.defineProperty(state, 'x', { value: 1 })", "assign"),
        ("Object.setPrototypeOf(state, null)", "prototypes"),
        ("return [1]", "a state is an object"),
        ("return 5", "a state is an object"),
        ("return Object.create(null)", "plain objects"),
        ("return (async () => {})()", "promise"),
    ] {
        let mut engine = opened(&format!(
            "export const version = 1; export const initialState = () => ({{ list: [1] }});\n\
             export const events = {{ e: {{ reduce: ({{ state }}) => {{ state.list.push(2); {change}; }} }} }};"
        ));
        let fault = review(&mut engine, json!(1)).fault.unwrap_or_else(|| panic!("{change} was taken"));
        assert!(fault.message.contains(why), "{change}: {fault}");
        assert_eq!(state(&mut engine), "{\"list\":[1]}", "{change}");
    }
}

#[test]
fn only_reduce_may_change_the_state() {
    for change in [
        "state.a = 1",
        "delete state.list",
        "state.list.push(1)",
        "state.list[0].n = 2",
        "state.list.sort()",
        "payload.x = 1",
        "payload.deep.push(1)",
        "event.payload.x = 2",
        "client.clientId = 'admin'",
        "Object.assign(state, { a: 1 })",
        "state.list.length = 0",
    ] {
        let mut engine = opened(&format!(
            "export const version = 1; export const initialState = () => ({{ list: [{{ n: 1 }}] }});\n\
             export const events = {{ e: {{ check: ({{ state, payload, event, client }}) => {{ {change}; }} }} }};"
        ));
        let verdict = review(&mut engine, json!({ "deep": [] }));
        let fault = verdict.fault.unwrap_or_else(|| panic!("{change} was taken"));
        assert!(fault.message.contains("only reduce may change"), "{change}: {fault}");
        assert_eq!(state(&mut engine), "{\"list\":[{\"n\":1}]}", "{change}");
    }
    let mut engine = one("check: () => true");
    assert!(review(&mut engine, json!(1)).fault.unwrap().message.contains("must return nothing"));
    let mut engine = one("check: ({ reject }) => { reject('no good') }");
    assert!(review(&mut engine, json!(1)).fault.unwrap().message.contains("capitals"));
    let mut engine = one(
        "check: ({ reject }) => { for (let i = 0; i < 1000; i++) reject('BAD', 'x'.repeat(1000), 'y'.repeat(5000)); }",
    );
    let verdict = review(&mut engine, json!(1));
    assert_eq!(verdict.errors.len(), 100);
    assert!(verdict.errors.iter().all(|error| error.field.len() <= 256 && error.message.len() <= 512));
}

/// A state is what it would be if it were written as JSON and read again after every event.
#[test]
fn nothing_of_a_state_stands_in_two_places_or_outside_of_it() {
    for reduce in [
        "const o = { n: 0 }; state.a = o; state.b = o; o.n = 5;",
        "state.a = DEFAULT; state.b = DEFAULT;",
        "state.a = Object.freeze({ n: 5 }); state.b = payload;",
        "const o = { n: 5 }; state.list = [o, o]; state.list.push(o); state.list.fill(o, 0, 2);",
        "state.a ??= { n: 5 }; state.b = state.a; state.c = { in: state.a }; state.d = [state.a];",
        "state.list ??= [{ n: 1 }, { n: 2 }]; state.list.push(state.list[0]); state.list.copyWithin(1, 0, 1);",
        "state.a ??= { in: { n: 1 } }; const { in: inner } = state.a; state.b = inner; delete state.a; inner.m = 2;",
        "return { ...state, kept: state.list ?? [{ n: 1 }], list: [...(state.list ?? []), { n: 2 }] };",
        "const o = {}; state.a = o; state.a.b = {}; const b = state.a.b; state.c = b; b.n = 1;",
    ] {
        let text = format!(
            "const DEFAULT = {{ n: 5 }};\nexport const version = 1;\nexport const events = {{ e: {{ reduce: ({{ state, payload }}) => {{ {reduce} }} }},\n\
             touch: {{ reduce: ({{ state }}) => {{\n\
               const touch = (value, path) => {{ if (value && typeof value === 'object') {{ for (const k of Object.keys(value)) touch(value[k], path + k);\n\
                 if (!Array.isArray(value)) value.touched = (value.touched ?? '') + path; }} }};\n\
               touch(state, '/'); }} }} }};"
        );
        let (mut kept, mut read_again) = (opened(&text), opened(&text));
        for event_type in ["e", "touch", "e", "touch", "touch"] {
            for engine in [&mut kept, &mut read_again] {
                let verdict = engine.review(&event(event_type, &json!({ "n": 7 }))).unwrap();
                assert_eq!(verdict.fault, None, "{reduce}");
            }
            reread(&mut read_again);
            assert_eq!(state(&mut kept), state(&mut read_again), "{reduce}, after {event_type}");
        }
    }
}

/// A module that keeps something in a variable of its file shows when its state is read again in another engine.
#[test]
fn keys_have_one_order_however_they_came() {
    let text = "export const version = 1; export const events = {\n\
        e: { reduce: ({ state, payload }) => { state.m ??= {}; state.m[payload] = 1; } },\n\
        list: { reduce: ({ state }) => { state.keys = Object.keys(state.m); state.json = JSON.stringify(state.m); \n\
          state.each = []; for (const k in state.m) state.each.push(k); } } };";
    let (mut kept, mut read_again) = (opened(text), opened(text));
    for key in ["zebra", "10", "apple", "9", "\u{e000}", "😀", "", "toString"] {
        for engine in [&mut kept, &mut read_again] {
            assert_eq!(engine.review(&event("e", &json!(key))).unwrap().fault, None, "{key}");
            assert_eq!(engine.review(&event("list", &json!(0))).unwrap().fault, None);
        }
        reread(&mut read_again);
    }
    assert_eq!(state(&mut kept), state(&mut read_again));
    let found: Value = serde_json::from_str(&state(&mut kept)).unwrap();
    assert_eq!(found["keys"], json!(["9", "10", "", "apple", "toString", "zebra", "😀", "\u{e000}"]));
    assert_eq!(found["each"], found["keys"]);
}

#[test]
fn every_bound_is_an_answer_and_nothing_is_left_of_it() {
    for (reduce, kind) in [
        ("for (;;);", FaultKind::Steps),
        ("try { for (;;); } catch { state.caught = 1; }", FaultKind::Steps),
        ("try { for (;;); } finally { state.caught = 1; }", FaultKind::Steps),
        ("const f = () => f(); f();", FaultKind::Stack),
        ("const f = (n) => [n].map(f); f(1);", FaultKind::Stack),
        ("const all = []; for (;;) all.push('x'.repeat(1 << 20) + all.length);", FaultKind::Memory),
        ("let s = 'ab'; for (;;) s += s;", FaultKind::Threw),
        ("/^(a+)+$/.test('a'.repeat(40) + 'b');", FaultKind::Steps),
        ("state.x = 'x'.repeat(payload.n);", FaultKind::Threw),
        ("throw 'just a text';", FaultKind::Threw),
        ("throw undefined;", FaultKind::Threw),
        ("let n = state; for (let i = 0; i < 300; i++) { n.n = {}; n = n.n; }", FaultKind::Threw),
        ("for (;;) state.list.push(1);", FaultKind::Steps),
        ("JSON.parse('['.repeat(100000));", FaultKind::Stack),
        ("function* f() { for (;;) yield 1; } for (const x of f()) state.n = x;", FaultKind::Steps),
        ("[1, 2, 3].sort(() => { for (;;); });", FaultKind::Steps),
        ("JSON.stringify({ toJSON() { for (;;); } });", FaultKind::Steps),
    ] {
        let mut engine = opened(&format!(
            "export const version = 1; export const initialState = () => ({{ list: [1, {{ a: 1 }}], b: {{ c: {{}} }} }});\n\
             export const events = {{ e: {{ reduce: ({{ state, payload }}) => {{ state.list.splice(0, 1, 5, 6); state.b.c.d = state.list[2];\n\
             delete state.b; {reduce} }} }}, ok: {{ reduce: ({{ state }}) => {{ state.ok = true; }} }} }};"
        ));
        let before = state(&mut engine);
        let verdict = review(&mut engine, json!({ "n": 30_000_000 }));
        let fault = verdict.fault.unwrap_or_else(|| panic!("{reduce} was taken"));
        assert_eq!(fault.kind, kind, "{reduce}: {fault}");
        assert_eq!(state(&mut engine), before, "{reduce}");
        let next = engine.review(&event("ok", &json!(0))).unwrap();
        assert!(next.is_folded && next.errors.is_empty(), "after {reduce}: {next:?}");
    }
}

/// The engine's own count of steps goes on from call to call. Which call is the first that takes too many must not depend
/// on where that count stands.
#[test]
fn the_budget_of_steps_is_the_same_wherever_the_count_stands() {
    let text = "export const version = 1; export const events = {\n\
        e: { reduce: ({ payload }) => { for (let i = 0; i < payload; i++); } } };";
    let is_within = |engine: &mut Engine, steps: u64| review(engine, json!(steps)).fault.is_none();
    let mut engine = opened(text);
    let (mut low, mut high) = (100_000, 5_000_000);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if is_within(&mut engine, middle) { low = middle } else { high = middle }
    }
    assert!((400_000..1_100_000).contains(&low), "{low}");
    // Each of these moves the count by something else.
    for moved in [0, 1, 17, 333, 4_999, 5_000, 9_998, 9_999, 10_000, 12_345] {
        let mut engine = opened(text);
        assert!(is_within(&mut engine, moved));
        for _ in 0..2 {
            assert!(is_within(&mut engine, low), "moved by {moved}");
            assert!(!is_within(&mut engine, low + 1), "moved by {moved}");
        }
    }
}

#[test]
fn rules_see_what_the_token_says_and_of_the_log_that_it_is_not_there() {
    let mut engine = opened(
        "export const version = 1;\n\
         export const authorize = ({ client, partition }) => client.claims.boards?.includes(partition);\n\
         export const events = { e: {\n\
           allow: ({ client }) => client.roles.includes('member'),\n\
           check: ({ payload, client, reject }) => {\n\
             try { if (payload.n > client.claims.max) reject('TOO_MUCH', 'payload.n'); } catch { reject('NO_CLAIM'); }\n\
           },\n\
           reduce: ({ state, payload }) => { state.n = payload.n; },\n\
         } };",
    );
    let decide = |engine: &mut Engine, n: u64, roles: Value, claims: Value, partition: &str| {
        let mut draft: Value = serde_json::from_str(&event("e", &json!({ "n": n }))).unwrap();
        draft["client"] = json!({ "clientId": "c1", "userId": null, "roles": roles, "claims": claims });
        draft["entered"] = partition.into();
        codes(&engine.decide(&draft.to_string()).unwrap())
    };
    let claims = json!({ "boards": ["b"], "max": 5 });
    assert_eq!(decide(&mut engine, 5, json!(["member"]), claims.clone(), "b"), Vec::<String>::new());
    assert_eq!(decide(&mut engine, 6, json!(["member"]), claims.clone(), "b"), ["TOO_MUCH payload.n"]);
    assert_eq!(decide(&mut engine, 5, json!(["guest"]), claims.clone(), "b"), ["FORBIDDEN type"]);
    assert_eq!(decide(&mut engine, 5, json!(["member"]), claims, "c"), ["FORBIDDEN partition"]);
    assert_eq!(decide(&mut engine, 5, json!(["member"]), json!({}), "b"), ["FORBIDDEN partition"]);
    // Rules may catch what they are told; that they have asked is known.
    let verdict = review(&mut engine, json!({ "n": 7 }));
    assert!(verdict.is_undecided && verdict.is_folded && verdict.errors.is_empty(), "{verdict:?}");
    assert_eq!(state(&mut engine), r#"{"n":7}"#);
    let enters = |partition: &str, claims: Value| {
        json!({ "client": { "clientId": "c1", "userId": null, "claims": claims }, "partition": partition })
            .to_string()
    };
    assert!(engine.authorize(&enters("b", json!({ "boards": ["b"] }))).unwrap());
    assert!(!engine.authorize(&enters("c", json!({ "boards": ["b"] }))).unwrap());
    assert!(!engine.authorize(&enters("c", json!({}))).unwrap());
    assert_eq!(engine.authorize(&enters("c", json!({ "boards": 1 }))).unwrap_err().kind, FaultKind::Threw);
    // A rule that was stopped leaves nothing behind.
    assert!(engine.authorize(&enters("b", json!({ "boards": ["b"] }))).unwrap());
}

#[test]
fn payloads_of_older_versions_are_lifted() {
    let mut engine = opened(
        "export const version = 1; export const events = { e: { schemaVersion: 3,\n\
         upcast: { 1: ({ payload }) => ({ ...payload, b: 1 }), 2: ({ payload }) => ({ ...payload, c: payload.b + 1 }) },\n\
         schema: { required: ['a', 'b', 'c'] }, reduce: ({ state, payload }) => { state.last = payload; } } };",
    );
    let of_version = |version: u64, payload: Value| {
        let mut event: Value = serde_json::from_str(&event("e", &payload)).unwrap();
        event["event"]["schemaVersion"] = json!(version);
        event.to_string()
    };
    for (version, payload) in
        [(1, json!({ "a": 0 })), (2, json!({ "a": 0, "b": 1 })), (3, json!({ "a": 0, "b": 1, "c": 2 }))]
    {
        let verdict = engine.review(&of_version(version, payload)).unwrap();
        assert_eq!((verdict.errors, verdict.is_folded), (vec![], true));
        assert_eq!(state(&mut engine), "{\"last\":{\"a\":0,\"b\":1,\"c\":2}}");
    }
    let newer = engine.review(&of_version(4, json!({}))).unwrap();
    assert_eq!(
        (codes(&newer), newer.is_folded),
        (vec!["UNKNOWN_SCHEMA_VERSION schemaVersion".to_owned()], false)
    );
}

#[test]
fn a_state_of_an_older_version_is_migrated() {
    let mut engine = opened(
        "export const version = 4; export const events = {};\n\
         export const migrate = { 2: ({ state }) => { state.two = true; }, 4: ({ state }) => ({ ...state, four: state.two }) };",
    );
    engine.open(Some("{\"a\":1}")).unwrap();
    engine.migrate(1).unwrap();
    assert_eq!(state(&mut engine), "{\"a\":1,\"four\":true,\"two\":true}");
    engine.migrate(3).unwrap();
    engine.open(Some("{\"two\":2}")).unwrap();
    engine.migrate(4).unwrap();
    assert_eq!(state(&mut engine), "{\"two\":2}");
}

/// The bound on what one event brings is none on what a partition holds.
#[test]
fn a_state_larger_than_an_event_may_bring_is_read_again_and_migrated() {
    let module = "export const version = 2; export const events = { e: { reduce: ({ state, payload }) => {\n\
        state.rows ??= []; for (let n = 0; n < 900; n++) state.rows.push({ n: payload, text: 'x'.repeat(1000) }); } } };\n\
        export const migrate = { 2: ({ state }) => { state.rows = state.rows.map((row) => ({ ...row, two: true })); } };";
    let mut engine = opened(module);
    for n in 0..3 {
        assert_eq!(review(&mut engine, json!(n)).fault, None);
    }
    let before = state(&mut engine);
    assert!(before.len() > 2 << 20);
    reread(&mut engine);
    assert_eq!(state(&mut engine), before);
    assert_eq!(review(&mut engine, json!(3)).fault, None);
    engine.migrate(1).unwrap();
    assert_eq!(state(&mut engine).matches("\"two\":true").count(), 3_600);
}

const ACTIONS: &str = "import * as actions from 'insieme:actions';\n\
    export const version = 1; export const events = { ...actions };";

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..Default::default() })]

    /// The built-in actions as a module's refuse what the built-in rules refuse, and make the same state of the rest.
    #[test]
    fn the_actions_of_a_module_are_the_built_in_ones(
        start in forest(),
        events in vec(built_in_event(), 1..40),
    ) {
        use crate::event::{ClientId, Draft, Submitter};
        use crate::rules::{Decision, Rules, RulesConfig};
        use crate::state::PartitionState;
        let rules = Rules::new(RulesConfig::default()).unwrap();
        let submitter = Submitter { client_id: ClientId::new("c1").unwrap(), user_id: None, permissions: vec!["*".to_owned()], roles: Vec::new(), claims: None };
        let mut theirs = PartitionState::new();
        let mut ours = opened(ACTIONS);
        let initial = json!({ "t": start, "a": { "b": {} } });
        ours.open(Some(&initial.to_string())).unwrap();
        let decide = |theirs: &mut PartitionState, number: usize, event_type: &str, payload: &Value| {
            let draft = Draft {
                draft_id: format!("d{number}"),
                event_type: event_type.to_owned(),
                payload: serde_json::value::RawValue::from_string(payload.to_string()).unwrap(),
                base_event_id: None,
                v1: None,
            };
            match rules.decide(theirs, &submitter, &draft) {
                Decision::Commit(accepted) => {
                    theirs.stage(&*rules.fold(), *accepted).unwrap();
                    Vec::new()
                }
                Decision::Reject { errors, .. } => {
                    let mut found: Vec<String> = errors.iter().map(|error| format!("{} {}", error.code, error.field)).collect();
                    found.sort();
                    found
                }
                other => panic!("{other:?}"),
            }
        };
        let refused = decide(&mut theirs, 0, "init", &json!({ "value": initial }));
        prop_assert!(refused.is_empty(), "{:?}", refused);
        for (number, (event_type, payload)) in events.iter().enumerate().filter(|(_, (event_type, _))| *event_type != "init") {
            let expected = decide(&mut theirs, number + 1, event_type, payload);
            let before = state(&mut ours);
            let verdict = ours.review(&event(event_type, payload)).unwrap();
            let mut found = codes(&verdict);
            if expected.iter().any(|code| code.starts_with("FORBIDDEN_KEY")) {
                prop_assert!(!found.is_empty(), "{} {} on {}", event_type, payload, before);
            } else {
                found.sort();
                prop_assert_eq!(&found, &expected, "{} {} on {}: {:?}", event_type, payload, before, verdict);
            }
            if !expected.is_empty() {
                // What is refused is not in a log; here it was folded all the same.
                let text = String::from_utf8(theirs.document().canonical()).unwrap();
                ours.open(Some(&text)).unwrap();
            }
            prop_assert_eq!(state(&mut ours), String::from_utf8(theirs.document().canonical()).unwrap(), "{} {} on {}", event_type, payload, before);
        }
    }
}
