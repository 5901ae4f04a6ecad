//! Percent-encoding in addresses.

/// Undoes it; with `is_query` also `+` for a space. `None` for what is no UTF-8 encoded so.
pub(crate) fn decoded(text: &str, is_query: bool) -> Option<String> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' if is_query => b' ',
            b'%' => {
                let (high, low) = (rest.next().and_then(hex)?, rest.next().and_then(hex)?);
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}
