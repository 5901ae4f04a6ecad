//! What stands behind the question mark of a request: each parameter once, known, and of its kind.

use super::problem::Problem;
use crate::util::percent;

/// The parameters of a request.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query, which may hold nothing but the `known` parameters.
    pub(crate) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if !known.contains(&name.as_str()) {
                let takes = match known {
                    [] => "none".to_owned(),
                    known => known.join(", "),
                };
                return Err(Problem::bad_request(format!("no parameter {name:?} here; there are: {takes}")));
            }
            if found.iter().any(|(earlier, _)| *earlier == name) {
                return Err(Problem::bad_request(format!("the parameter {name:?} is there twice")));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    /// A parameter's text, if it is there.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is a number, if it is there.
    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let wrong = |_| Problem::bad_request(format!("the parameter {name} is a whole number, not {text:?}"));
        text.parse().map(Some).map_err(wrong)
    }

    /// How many entries a page is to have.
    pub(crate) fn limit(&self, default: usize, max: usize) -> Result<usize, Problem> {
        match self.number("limit")? {
            None => Ok(default.min(max)),
            Some(limit) if limit >= 1 && limit <= max as u64 => Ok(limit as usize),
            Some(limit) => {
                Err(Problem::bad_request(format!("the parameter limit is 1 to {max}, not {limit}")))
            }
        }
    }
}

fn decoded(text: &str) -> Result<String, Problem> {
    let wrong = || Problem::bad_request(format!("{text:?} is not percent-encoded UTF-8"));
    percent::decoded(text, true).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_typed() {
        let query = Query::parse(Some("partition=a%2Fb+%C3%A9&limit=7"), &["partition", "limit"]).unwrap();
        assert_eq!(query.text("partition"), Some("a/b é"));
        assert_eq!(query.limit(1, 10).unwrap(), 7);
        assert_eq!(query.text("client"), None);
        assert_eq!(Query::parse(None, &[]).unwrap().limit(100, 10).unwrap(), 10);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let cases = [
            ("partiton=a", "no parameter \"partiton\" here; there are: partition, limit"),
            ("limit=1&limit=2", "twice"),
            ("partition=%zz", "not percent-encoded"),
            ("partition=%ff", "not percent-encoded"),
            ("partition=%f", "not percent-encoded"),
        ];
        for (query, says) in cases {
            let problem = Query::parse(Some(query), &["partition", "limit"]).unwrap_err();
            assert!(format!("{problem:?}").contains(&says.replace('"', "\\\"")), "{query}: {problem:?}");
        }
        for limit in ["0", "11", "-1", "many", ""] {
            let query = Query::parse(Some(&format!("limit={limit}")), &["limit"]).unwrap();
            assert!(query.limit(1, 10).is_err(), "{limit}");
        }
    }
}
