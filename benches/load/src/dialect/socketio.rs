//! Socket.IO 4 over its WebSocket transport, as `benches/peers/socketio.mjs` answers it: an event is sent
//! with an acknowledgement asked for, and goes to everyone else in the room. Nothing is stored.

use anyhow::Result;

use super::{Mark, Names, Seen, failure, number_behind, put, put_filler, put_number};

/// Engine.IO's own opening is the server's; this opens the namespace, and says which room to join.
pub(super) fn connect(out: &mut Vec<u8>, names: &Names) {
    put(out, "40{\"room\":\"");
    put(out, &names.partition);
    put(out, "\"}");
}

pub(super) fn submit(out: &mut Vec<u8>, names: &Names, mark: Mark, bytes: usize) {
    put(out, "42");
    put_number(out, u64::from(mark.sequence));
    let start = out.len();
    put(out, "[\"submit\",{\"id\":\"");
    put(out, &names.run);
    mark.put(out);
    put(out, "\",\"clientId\":\"");
    put(out, &names.client);
    put(out, "\",\"text\":\"");
    put_filler(out, start, bytes, 3);
    put(out, "\"}]");
}

pub(super) fn read(text: &[u8], on: &mut dyn FnMut(Seen) -> Result<()>) -> Result<()> {
    match text {
        // Engine.IO's opening, and its ping.
        [b'0', ..] => Ok(()),
        [b'2'] => on(Seen::Reply("3")),
        // The namespace is open, and the room joined.
        [b'4', b'0', ..] => on(Seen::Connected { head: 0, bytes: text.len() }),
        [b'4', b'2', ..] => match (Mark::find(text, 0), number_behind(text, "\"committedId\":", 0)) {
            (Some((mark, _)), Some((id, _))) => on(Seen::Event { mark, id }),
            _ => failure(text, on),
        },
        [b'4', b'3', ..] => match (Mark::find(text, 0), number_behind(text, "\"committedId\":", 0)) {
            (Some((mark, _)), Some((id, _))) => {
                on(Seen::Accepted { mark, id })?;
                on(Seen::Answered)
            }
            _ => failure(text, on),
        },
        _ => failure(text, on),
    }
}
