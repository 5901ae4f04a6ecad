//! What is said is understood, also by other versions; and who counts as being there.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::membership::Membership;
use super::messages::{Answer, Audience, Command, CommandEnvelope, CommandReply, Process, Role};

fn report(role: Role, id: &str, answer: Answer) -> CommandReply {
    CommandReply {
        by: Process { role, id: id.into() },
        version: "1".into(),
        started_ms: 1,
        announce_ms: 1_000,
        number: None,
        answer,
    }
}

#[test]
fn an_order_of_another_version_can_be_read_as_far_as_who_asks() {
    let order = r#"{"asker":"a-1","number":7,"demand":{"somethingNew":{"x":1}},"alsoNew":true}"#;
    let order: CommandEnvelope = serde_json::from_str(order).unwrap();
    assert_eq!((order.asker.as_str(), order.number), ("a-1", 7));
    assert!(serde_json::from_str::<Command>(order.demand.get()).is_err());
    let known = RawValue::from_string(r#""presence""#.into()).unwrap();
    assert_eq!(serde_json::from_str::<Command>(known.get()).unwrap(), Command::Presence);
    let said = report(Role::Frontend, "f", Answer::Failed("why".into()));
    assert_eq!(serde_json::from_slice::<CommandReply>(&serde_json::to_vec(&said).unwrap()).unwrap(), said);
}

/// Frontends of an earlier version say less of their connections.
#[test]
fn connections_of_an_earlier_version_can_be_read() {
    let said = r#"{"connections":{"total":1,"clients":1,"more":false,"found":[{"client":"a","connection":1,
        "user":null,"partition":"p","dialect":"v1","address":"::/64","sinceMs":5,"tokenId":null,"expiresAt":null}]}}"#;
    let Answer::Connections(found) = serde_json::from_str(said).unwrap() else { panic!("{said}") };
    let found = &found.found[0];
    assert_eq!((found.since_ms, found.last_heartbeat_ms), (5, 0));
    assert_eq!((&found.version, &found.user_agent, &found.metadata), (&None, &None, &None));
}

#[test]
fn who_is_silent_for_three_announcements_or_leaves_is_not_there() {
    let (mut roll, start) = (Membership::default(), Instant::now());
    for report in [
        report(Role::Frontend, "f", Answer::Present),
        report(Role::Frontend, "g", Answer::NotUnderstood),
        report(Role::Validator, "f", Answer::Present),
    ] {
        roll.heard(&report, start);
    }
    let present = |roll: &Membership, audience, after_ms| {
        let now = start + Duration::from_millis(after_ms);
        roll.present(audience, now).map(|(process, _)| process.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(present(&roll, Audience::Everyone, 2_999), ["f", "g", "f"]);
    assert_eq!(present(&roll, Audience::Frontends, 2_999), ["f", "g"]);
    roll.heard(&report(Role::Frontend, "g", Answer::Leaving), start);
    assert_eq!(present(&roll, Audience::Frontends, 0), ["f"]);
    roll.heard(&report(Role::Frontend, "f", Answer::Present), start + Duration::from_secs(1));
    assert_eq!(present(&roll, Audience::Everyone, 3_500), ["f"]);
    roll.forget(start + Duration::from_secs(5));
    assert!(present(&roll, Audience::Everyone, 0).is_empty());
}
