//! Every subject, stream name and header of ours, in one place.

use crate::event::{Slot, Token};

pub(crate) const DRAFTS_STREAM: &str = "DRAFTS";
pub(crate) const COMMITTED_STREAM: &str = "COMMITTED";
pub(crate) const OWNERSHIP_BUCKET: &str = "SLOTS";
pub(crate) const SNAPSHOT_BUCKET: &str = "SNAPSHOTS";
/// The streams under the two buckets.
pub(crate) const OWNERSHIP_STREAM: &str = "KV_SLOTS";
pub(crate) const SNAPSHOT_STREAM: &str = "OBJ_SNAPSHOTS";
/// All subjects of the bucket of slots and validators.
pub(crate) const OWNERSHIP_SUBJECTS: &str = "$KV.SLOTS.>";
/// The stream under the bucket of revocations, and all its subjects.
pub(crate) const REVOKED_STREAM: &str = "KV_REVOKED";
pub(crate) const REVOKED_SUBJECTS: &str = "$KV.REVOKED.>";

/// The stream under the bucket of applications' rules, and all its subjects.
pub(crate) const RULES_STREAM: &str = "KV_RULES";
pub(crate) const RULES_SUBJECTS: &str = "$KV.RULES.>";

/// The header that every message in the answer to a batched get has, and no other.
pub(crate) const NUM_PENDING: &str = "Nats-Num-Pending";

/// The header of a slot's key that says which of its drafts are decided.
pub(crate) const DECIDED: &str = "Insieme-Decided";
/// The header with which a validator says that it heeds what slots' keys say of decided drafts. Those of versions
/// before it do not.
pub(crate) const HEEDS_DECIDED: &str = "Insieme-Heeds-Decided";

pub(crate) const DRAFTS_ALL: &str = "draft.>";
pub(crate) const COMMITTED_ALL: &str = "committed.>";
pub(crate) const LIVE_ALL: &str = "live.>";

/// Where a frontend publishes the drafts of a partition.
pub(crate) fn draft(slot: Slot, token: &Token) -> String {
    format!("draft.{slot}.{token}")
}

/// All drafts of a slot.
pub(crate) fn drafts_of(slot: Slot) -> String {
    format!("draft.{slot}.>")
}

/// The partition's token at the end of a draft's subject.
pub(crate) fn token_of_draft(subject: &str) -> Option<&str> {
    subject.splitn(3, '.').nth(2)
}

/// The partition's place in the log.
pub(crate) fn committed(token: &Token) -> String {
    format!("committed.{token}")
}

/// The partition's token at the end of a committed event's subject.
pub(crate) fn token_of_committed(subject: &str) -> Option<&str> {
    subject.strip_prefix("committed.")
}

/// What the object store says of a snapshot object; `name` is encoded.
pub(crate) fn snapshot_info(name: &str) -> String {
    format!("$O.{SNAPSHOT_BUCKET}.M.{name}")
}

/// A snapshot object's bytes.
pub(crate) fn snapshot_chunks(nuid: &str) -> String {
    format!("$O.{SNAPSHOT_BUCKET}.C.{nuid}")
}

/// Where JetStream repeats a partition's events as they are stored.
pub(crate) fn live(token: &Token) -> String {
    format!("live.{token}")
}

/// Where validators answer a frontend.
pub(crate) fn answer(frontend: &str) -> String {
    format!("answer.{frontend}")
}

/// What validators answer any frontend, and whom.
pub(crate) const ANSWERS_ALL: &str = "answer.*";
pub(crate) fn frontend_of_answer(subject: &str) -> Option<&str> {
    subject.strip_prefix("answer.")
}

/// Where the administration orders something of every process, or of those of a role.
pub(crate) fn order(role: Option<&str>) -> String {
    format!("control.{}", role.unwrap_or("all"))
}

/// Where a process reports to whoever asked, or says something to all who may ask.
pub(crate) fn report(asker: Option<&str>) -> String {
    format!("report.{}", asker.unwrap_or("all"))
}

/// Where a revocation is kept.
pub(crate) fn revoked(key: &str) -> String {
    format!("$KV.REVOKED.{key}")
}

/// Where it is kept which of an application's rules are in force.
pub(crate) const RULES_IN_FORCE: &str = "$KV.RULES.in-force";

/// Where a version of an application's rules is kept.
pub(crate) fn rules_version(version: &str) -> String {
    format!("$KV.RULES.version.{version}")
}

/// All versions.
pub(crate) const RULES_VERSIONS: &str = "$KV.RULES.version.>";

/// The consumer of a slot under one ownership. A new name for every ownership, so that a late
/// acknowledgement from the one before finds nobody.
pub(crate) fn slot_consumer(slot: Slot, revision: u64) -> String {
    format!("slot-{slot}-{revision}")
}

/// Whether a consumer is one of this slot's.
pub(crate) fn is_slot_consumer(name: &str, slot: Slot) -> bool {
    name.strip_prefix("slot-")
        .and_then(|rest| rest.split_once('-'))
        .is_some_and(|(number, _)| number == slot.to_string())
}
