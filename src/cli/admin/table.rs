//! Answers as tables, for people. What others have chosen, such as client ids, is shown so that it can do nothing
//! to a terminal.

use serde_json::Value;

/// A column: its heading, the field that it shows, and how.
pub(crate) type Column = (&'static str, &'static str, Show);

/// How a field is shown.
#[derive(Clone, Copy)]
pub(crate) enum Show {
    /// As it is.
    Plain,
    /// As a time, of Unix milliseconds.
    Ms,
    /// As a time, of Unix seconds.
    Seconds,
}

/// Rows of some fields of JSON objects, under headings.
pub(crate) fn table<'a>(columns: &[Column], rows: impl IntoIterator<Item = &'a Value>) -> String {
    let head = columns.iter().map(|(heading, ..)| (*heading).to_owned()).collect();
    let body = rows
        .into_iter()
        .map(|row| columns.iter().map(|(_, field, show)| shown(&row[*field], *show)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A value in one cell.
pub(crate) fn shown(value: &Value, show: Show) -> String {
    match (value, show) {
        (Value::Null, _) => "-".to_owned(),
        (Value::Bool(yes), _) => if *yes { "yes" } else { "no" }.to_owned(),
        (Value::String(text), _) => escape_control(text),
        (Value::Array(values), _) => {
            values.iter().map(|value| shown(value, show)).collect::<Vec<_>>().join(", ")
        }
        (value, Show::Ms) => value.as_u64().map_or_else(|| value.to_string(), |ms| utc(ms / 1000)),
        (value, Show::Seconds) => value.as_u64().map_or_else(|| value.to_string(), utc),
        (value, Show::Plain) => value.to_string(),
    }
}

/// A text without anything that a terminal would obey, and that no eye could tell.
pub(crate) fn escape_control(text: &str) -> String {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// A time of Unix seconds, as RFC 3339 has it.
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Days are counted from the first of March of the year 0, so that the leap day comes last.
    let day = days + 719_468;
    let era = day / 146_097;
    let of_era = day % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix_s, says) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_795_611_845, "2026-11-25T13:04:05Z"),
        ] {
            assert_eq!(utc(unix_s), says);
        }
    }

    #[test]
    fn a_table_has_straight_columns_and_obeys_nobody() {
        let rows =
            [json!({ "id": "a\u{1b}[2J", "n": 7, "at": 1_000 }), json!({ "id": "é", "n": null, "at": true })];
        let columns = [("ID", "id", Show::Plain), ("N", "n", Show::Plain), ("AT", "at", Show::Ms)];
        let text = table(&columns, &rows);
        assert_eq!(text, "ID          N  AT\na\\u{1b}[2J  7  1970-01-01T00:00:01Z\né           -  yes");
    }
}
