//! What a function that returns no `Result` does with an error of its scope.

use std::thread;

use symm_core::{Error, Host, Result, Scope, symmetric};

use crate::{Layer, Symm, Tp, alone, failing, redirected};

impl Layer {
    #[symmetric(group = self.tp, on_error = poison)]
    fn poisons(&self) -> bool {
        redirected()
    }

    #[symmetric(group = self.tp, on_error = poison)]
    fn poisons_at_its_end(&self, still_open: &mut Option<Scope<Tp, Host>>) -> bool {
        *still_open = self.tp.scope().ok();
        redirected()
    }

    #[symmetric(group = self.tp, on_error = panic)]
    fn panics(&self) -> bool {
        redirected()
    }

    #[symmetric(group = self.tp, on_error = panic)]
    fn panics_at_its_end(&self) -> Option<Symm> {
        self.allocate().ok()
    }

    /// What `function` returns on another thread, while this one has a scope of the group.
    fn while_busy(&self, function: fn(&Self) -> bool) -> thread::Result<bool> {
        let _scope = self.tp.scope();
        thread::scope(|threads| threads.spawn(|| function(self)).join())
    }

    /// Why the next scope does not open.
    fn poison(&self) -> Box<str> {
        match self.tp.scope() {
            Err(Error::Poisoned { cause, .. }) => cause,
            other => panic!("{other:?}"),
        }
    }
}

const BUSY: &str = "is in use at";
const ORDER: &str = "was closed before the one opened inside it";

#[test]
fn poison_when_the_scope_does_not_open() -> Result<()> {
    alone(|layer| {
        assert!(
            !layer.while_busy(Layer::poisons).unwrap(),
            "runs without a scope"
        );
        assert!(layer.poison().contains(BUSY));
        Ok(())
    })
}

#[test]
fn poison_when_it_does_not_close() -> Result<()> {
    alone(|layer| {
        let mut still_open = None;
        assert!(layer.poisons_at_its_end(&mut still_open));
        assert!(layer.poison().contains(ORDER));
        Ok(())
    })
}

#[test]
fn panic_when_the_scope_does_not_open() -> Result<()> {
    alone(|layer| {
        let panic = layer.while_busy(Layer::panics).unwrap_err();
        assert!(panic.downcast::<String>().unwrap().contains(BUSY));
        Ok(())
    })
}

#[test]
fn panic_when_it_does_not_close() {
    let outcome = failing(|layer| {
        layer.panics_at_its_end();
        Ok(())
    });
    let Err(Error::PeerFailed { cause, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(
        cause.contains("it panicked") && cause.contains("could not be registered"),
        "{cause}"
    );
}
