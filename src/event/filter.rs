//! Which events are asked for, by what stands in their records.

use super::{ClientId, EventRecord};

/// What an event must have to be shown. What is not given does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Whose it is.
    pub client: Option<ClientId>,
    /// Its type.
    pub event_type: Option<String>,
    /// The earliest time of its commit, in Unix milliseconds.
    pub since_ms: Option<u64>,
    /// The latest.
    pub until_ms: Option<u64>,
}

impl EventFilter {
    /// Whether an event, by the body of its message in COMMITTED, is asked for. One that cannot be read is: nobody can
    /// say that it is not, and it is not to be hidden.
    pub fn takes(&self, body: &[u8]) -> bool {
        if *self == Self::default() {
            return true;
        }
        EventRecord::parse(body).map_or(true, |record| self.takes_record(&record))
    }

    fn takes_record(&self, record: &EventRecord<'_>) -> bool {
        self.client.as_ref().is_none_or(|client| record.client_id == *client)
            && self.event_type.as_ref().is_none_or(|of| record.event_type == *of)
            && self.since_ms.is_none_or(|since| record.timestamp >= since)
            && self.until_ms.is_none_or(|until| record.timestamp <= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_by_client_type_and_time() {
        let body = br#"{"type":"set","payload":{"target":"a","value":1},"partition":"p","timestamp":50,"clientId":"ann",
            "draftId":"d","contentHash":"0000000000000000","ordinal":1}"#;
        assert_eq!(EventRecord::parse(body).unwrap().timestamp, 50);
        let client = |id: &str| Some(ClientId::new(id).unwrap());
        let filter = EventFilter::default;
        let taken = [
            filter(),
            EventFilter { client: client("ann"), ..filter() },
            EventFilter { event_type: Some("set".into()), ..filter() },
            EventFilter { since_ms: Some(50), until_ms: Some(50), ..filter() },
        ];
        let left_out = [
            EventFilter { client: client("bob"), ..filter() },
            EventFilter { event_type: Some("unset".into()), ..filter() },
            EventFilter { since_ms: Some(51), ..filter() },
            EventFilter { until_ms: Some(49), ..filter() },
            EventFilter { client: client("ann"), event_type: Some("se".into()), ..filter() },
        ];
        assert!(taken.iter().all(|filter| filter.takes(body)));
        assert!(left_out.iter().all(|filter| !filter.takes(body)));
        assert!(left_out[0].takes(b"no event"), "what cannot be read is not hidden");
    }
}
