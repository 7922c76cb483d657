//! One line of a shim's log.

/// What a line tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Call,
    Return,
    Fault,
    Note,
}

#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) number: u64,
    /// Microseconds since 1970.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    pub(crate) micros: u128,
    pub(crate) kind: Kind,
    /// The function.
    pub(crate) name: &'a str,
    fields: Vec<(&'a str, &'a str)>,
}

impl<'a> Line<'a> {
    /// `None` for what the shim does not write.
    pub(crate) fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let (number, micros) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let _thread: u64 = words.next()?.parse().ok()?;
        let kind = match words.next()? {
            "call" => Kind::Call,
            "ret" => Kind::Return,
            "fault" => Kind::Fault,
            "note" => Kind::Note,
            _ => return None,
        };
        let name = match kind {
            Kind::Note => "",
            _ => words.next()?,
        };
        Some(Self {
            number,
            micros,
            kind,
            name,
            fields: words.filter_map(|word| word.split_once('=')).collect(),
        })
    }

    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        let found = self.fields.iter().find(|(name, _)| *name == key);
        found.map(|(_, value)| *value)
    }

    /// A number, or an address.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        let text = self.text(key)?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// The call that a return or a fault belongs to.
    pub(crate) fn of(&self) -> Option<u64> {
        self.number("of")
    }

    /// Whether a call succeeded.
    pub(crate) fn is_success(&self) -> bool {
        self.text("code") == Some("0")
    }
}
