//! What a function that returns a `Result` does with an error of its scope.

use std::error::Error as StdError;
use std::fmt::Debug;
use std::io;

use symm_core::{Error, Result, symm, symmetric};

use crate::{Layer, Symm, failing};

type Fallible<T> = std::result::Result<T, Box<dyn StdError>>;

#[derive(Debug)]
enum Own {
    Scope(Error),
    Body,
}

impl From<Error> for Own {
    fn from(error: Error) -> Self {
        Self::Scope(error)
    }
}

#[symmetric(group = layer.tp)]
fn with_anyhow(layer: &Layer) -> anyhow::Result<Symm> {
    Ok(layer.allocate()?)
}

#[symmetric(group = layer.tp)]
fn with_an_alias(layer: &Layer) -> Fallible<Symm> {
    Ok(layer.allocate()?)
}

#[symmetric(group = layer.tp)]
fn with_a_box(layer: &Layer) -> Result<Symm, Box<dyn StdError + Send + Sync>> {
    Ok(layer.allocate()?)
}

#[symmetric(group = layer.tp)]
fn with_io(layer: &Layer) -> io::Result<Symm> {
    Ok(layer.allocate()?)
}

#[symmetric(group = layer.tp)]
fn with_any<E: From<Error>>(layer: &Layer) -> Result<Symm, E> {
    Ok(layer.allocate()?)
}

/// `function` gives the error of its registration, and, now that this poisoned the world, that of a
/// scope that does not open.
fn reports<E: Debug>(
    function: fn(&Layer) -> Result<Symm, E>,
    cause: fn(&E) -> Option<&Error>,
) -> Result<()> {
    failing(|layer| {
        let (closing, opening) = (function(&layer).unwrap_err(), function(&layer).unwrap_err());
        assert!(matches!(cause(&closing), Some(Error::Registration { .. })));
        assert!(matches!(cause(&opening), Some(Error::Poisoned { .. })));
        Ok(())
    })
}

#[test]
fn come_in_any_type_with_from() -> Result<()> {
    reports(with_anyhow, anyhow::Error::downcast_ref)?;
    reports(with_an_alias, |error| error.downcast_ref())?;
    reports(with_a_box, |error| error.downcast_ref())?;
    reports(with_io, |error| error.get_ref()?.downcast_ref())?;
    reports(with_any::<Error>, |error| Some(error))?;
    reports(with_any, |error| match error {
        Own::Scope(error) => Some(error),
        Own::Body => None,
    })
}

#[symmetric(group = layer.tp)]
fn fails_itself(layer: &Layer) -> Result<(), Own> {
    layer.allocate()?;
    Err(Own::Body)
}

#[test]
fn of_the_body_go_first() -> Result<()> {
    failing(|layer| {
        assert!(matches!(fails_itself(&layer), Err(Own::Body)));
        // What it left to register is the next scope's to report.
        assert!(matches!(
            symm!(group = layer.tp, {}),
            Err(Error::Registration { .. })
        ));
        Ok(())
    })
}
