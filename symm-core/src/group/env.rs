//! The environment of a process that a launcher started.

use std::ffi::OsString;

use crate::error::{Error, Result};

/// This process's place in its world.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    pub(crate) rank: usize,
    pub(crate) ranks: usize,
    pub(crate) local_rank: usize,
    pub(crate) local_ranks: usize,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Launch {
    /// Reads torchrun's variables through `read`, so that tests need not change the process's
    /// environment.
    pub(crate) fn from_env(read: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &'static str| match read(name).map(OsString::into_string) {
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(environment(name, "is not valid UTF-8")),
            None => Ok(None),
        };
        let number = |name: &'static str| match text(name)? {
            None => Ok(None),
            Some(value) => match value.trim().parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(environment(
                    name,
                    &format!("is `{value}`, a number from 0 is expected"),
                )),
            },
        };
        let required = |name: &'static str| number(name)?.ok_or_else(|| missing(name));

        let (rank, ranks) = (required("RANK")?, required("WORLD_SIZE")?);
        if rank >= ranks {
            return Err(environment(
                "RANK",
                &format!("is {rank}, but WORLD_SIZE is {ranks}: ranks are numbered from 0"),
            ));
        }
        let local_ranks = number("LOCAL_WORLD_SIZE")?.unwrap_or(ranks);
        if local_ranks > ranks {
            let problem = format!("is {local_ranks}, but WORLD_SIZE is {ranks}");
            return Err(environment("LOCAL_WORLD_SIZE", &problem));
        }
        let local_rank = match number("LOCAL_RANK")? {
            Some(local_rank) => local_rank,
            None if local_ranks == ranks => rank,
            None => return Err(missing("LOCAL_RANK")),
        };
        if local_rank >= local_ranks {
            return Err(environment(
                "LOCAL_RANK",
                &format!("is {local_rank}, but there are {local_ranks} ranks on this host"),
            ));
        }
        let host = text("MASTER_ADDR")?
            .filter(|host| !host.is_empty())
            .ok_or_else(|| missing("MASTER_ADDR"))?;
        let port = required("MASTER_PORT")?;
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| environment("MASTER_PORT", "is no TCP port (1 to 65535)"))?;
        // torchrun's agent listens on MASTER_PORT itself and says so.
        let taken = text("TORCHELASTIC_USE_AGENT_STORE")?.is_some_and(|value| value == "True");
        let port = if taken {
            port.checked_add(1).unwrap_or(port - 1)
        } else {
            port
        };
        Ok(Self {
            rank,
            ranks,
            local_rank,
            local_ranks,
            host,
            port,
        })
    }
}

/// Whether a variable switches something on.
pub(crate) fn flag(name: &'static str, read: impl Fn(&str) -> Option<OsString>) -> Result<bool> {
    match read(name).as_ref().map(|value| value.to_str()) {
        None | Some(Some("" | "0")) => Ok(false),
        Some(Some("1")) => Ok(true),
        Some(_) => Err(environment(name, "is neither 0 nor 1")),
    }
}

fn missing(name: &'static str) -> Error {
    environment(
        name,
        "is not set: start the program with torchrun or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, or run the ranks as threads with World::run",
    )
}

fn environment(name: &'static str, problem: &str) -> Error {
    Error::Environment {
        name,
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("RANK", "1"),
        ("WORLD_SIZE", "4"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29500"),
    ];

    fn launch(change: &[(&str, Option<&str>)]) -> Result<Launch> {
        Launch::from_env(|name| {
            let changed = change
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| *value);
            changed
                .unwrap_or_else(|| {
                    GOOD.iter()
                        .find(|(key, _)| *key == name)
                        .map(|(_, value)| *value)
                })
                .map(OsString::from)
        })
    }

    #[test]
    fn torchruns_variables_are_read() {
        let expected = Launch {
            rank: 1,
            ranks: 4,
            local_rank: 1,
            local_ranks: 4,
            host: "127.0.0.1".into(),
            port: 29500,
        };
        assert_eq!(launch(&[]).ok(), Some(expected));
        assert_eq!(
            launch(&[("TORCHELASTIC_USE_AGENT_STORE", Some("True"))])
                .ok()
                .map(|launch| launch.port),
            Some(29501)
        );
    }

    #[test]
    fn redzones_are_on_or_off() {
        let read = |value: Option<&str>| flag("SYMM_REDZONES", |_| value.map(OsString::from)).ok();
        assert_eq!([None, Some("0"), Some("")].map(read), [Some(false); 3]);
        assert_eq!([Some("1"), Some("yes")].map(read), [Some(true), None]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("RANK", None),
            ("RANK", Some("one")),
            ("RANK", Some("4")),
            ("WORLD_SIZE", None),
            ("LOCAL_RANK", Some("4")),
            ("LOCAL_WORLD_SIZE", Some("8")),
            ("MASTER_ADDR", None),
            ("MASTER_PORT", Some("0")),
            ("MASTER_PORT", Some("70000")),
        ] {
            match launch(&[(name, value)]) {
                Err(Error::Environment { name: named, .. }) => assert_eq!(named, name),
                other => panic!("{name}={value:?} gave {other:?}"),
            }
        }
    }
}
