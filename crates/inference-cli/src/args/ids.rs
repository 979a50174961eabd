//! Lists of token ids.

use std::str::FromStr;

use inference::TokenId;

/// Token ids as an argument: `1,2,3`, or separated by spaces, or a JSON array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids(pub(crate) Vec<TokenId>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let list = list.trim();
        let inner = match list.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or("`[` without `]`")?,
            None => list,
        };
        let parse = |id: &str| {
            id.parse().map_err(|_| {
                format!("`{id}` is no token id: expected a whole number from 0 to {}", TokenId::MAX)
            })
        };
        let ids = inner.split(|c: char| c == ',' || c.is_whitespace()).filter(|id| !id.is_empty());
        let ids = ids.map(parse).collect::<Result<Vec<_>, _>>()?;
        if ids.is_empty() {
            return Err("expected at least one token id".to_owned());
        }
        Ok(Self(ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_spaces_and_json_arrays_are_read() {
        for list in ["1,2,30", "1 2 30", "[1, 2, 30]", " 1,2,\n30 "] {
            assert_eq!(list.parse(), Ok(Ids(vec![1, 2, 30])), "{list}");
        }
    }

    #[test]
    fn what_is_no_id_is_refused_by_name() {
        for (list, named) in [("1,x", "`x`"), ("-1", "`-1`"), ("4294967296", "`4294967296`")] {
            let error = list.parse::<Ids>().unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        assert!("".parse::<Ids>().is_err());
        assert!("[1".parse::<Ids>().is_err());
    }
}
