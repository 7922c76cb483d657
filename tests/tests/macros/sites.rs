//! Errors say where the scope was opened.

use std::thread;

use symm_core::{Error, Result, Site, symm, symmetric};

use crate::{Layer, Symm, alone, failing};

#[track_caller]
fn is_at(site: Site, line: u32, function: &str) {
    assert_eq!((site.file(), site.line()), (file!(), line));
    let path = site.function().unwrap();
    assert!(
        path.starts_with("macros::sites::") && path.ends_with(function),
        "{path}"
    );
    assert_eq!(site.to_string(), format!("{}:{line} in {path}", file!()));
}

impl Layer {
    #[symmetric(group = self.tp)]
    fn registers(&self) -> Result<Symm> {
        self.allocate()
    }
    const REGISTERS: u32 = line!() - 3;
}

#[test]
fn of_functions() -> Result<()> {
    failing(|layer| {
        let outcome = layer.registers();
        let Err(Error::Registration { site, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        is_at(site, Layer::REGISTERS, "::registers");
        Ok(())
    })
}

#[test]
fn of_blocks() -> Result<()> {
    failing(|layer| {
        let (outcome, line) = (symm!(group = layer.tp, { layer.allocate()? }), line!());
        let Err(Error::Registration { site, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        is_at(site, line, "::of_blocks");
        Ok(())
    })
}

#[test]
fn of_two_threads() -> Result<()> {
    alone(|layer| {
        let opened = line!() + 1;
        let refused = symm!(group = layer.tp, {
            thread::scope(|threads| threads.spawn(|| layer.registers().err()).join().unwrap())
        })?;
        let Some(Error::GroupBusy { here, there, .. }) = refused else {
            panic!("{refused:?}")
        };
        is_at(here, Layer::REGISTERS, "::registers");
        is_at(there, opened, "::of_two_threads");
        Ok(())
    })
}
