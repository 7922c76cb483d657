//! What `symm!` is to the code around it.

use std::cell::Cell;
use std::future::{Future, ready};

use symm_core::{Buf, Error, Group, Host, Result, symm, symmetric};

use crate::{Cp, Layer, Tp, alone, redirected};

#[test]
fn are_expressions() -> Result<()> {
    alone(|Layer { tp, .. }| {
        symm!(group = tp, {})?;
        let [one, two] = symm!(group = tp, { [1, 2].map(|len| tp.zeros::<u8>(len)) })?;
        assert_eq!((one?.len(), two?.len()), (1, 2));
        let Some(true) = symm!(group = tp, { Some(redirected()) })? else {
            panic!("not in the scope");
        };
        Ok(())
    })
}

#[test]
fn borrow_and_move_like_any_block() -> Result<()> {
    alone(|Layer { tp, .. }| {
        let (mut borrowed, moved) = (0, vec![1, 2]);
        let moved = symm!(group = tp, {
            borrowed += 1;
            moved
        })?;
        assert_eq!((borrowed, moved), (1, vec![1, 2]));
        Ok(())
    })
}

#[test]
fn nest() -> Result<()> {
    alone(|Layer { tp, cp, .. }| {
        let (outer, inner) = symm!(group = tp, {
            let inner = symm!(group = cp, { Buf::<u8, Host>::empty(1)? })?;
            (Buf::<u8, Host>::empty(1)?, inner)
        })?;
        assert!(outer.downcast::<Tp>().is_ok());
        assert!(inner.downcast::<Cp>().is_ok());
        Ok(())
    })
}

#[test]
fn stand_between_awaits() {
    fn sendable(_: impl Future + Send) {}

    sendable(async {
        let group = ready(None::<Group<Tp, Host>>).await;
        symm!(group = group.unwrap(), { async { ready(1).await } })?.await;
        Ok::<_, Error>(())
    });
}

#[test]
fn leave_names_to_the_user() -> Result<()> {
    #[symmetric(group = group)]
    fn adds(group: &Group<Tp, Host>, opened: u32, run: u32, private: u32) -> Result<u32> {
        let (scope, value, refused) = (10, 20, 30);
        symm!(group = group, {
            opened + run + private + scope + value + refused
        })
    }

    alone(|Layer { tp, .. }| {
        assert_eq!(adds(&tp, 1, 2, 3)?, 66);
        Ok(())
    })
}

#[test]
fn drop_temporaries_of_the_tail_inside_the_scope() -> Result<()> {
    struct Temporary<'a>(&'a Cell<bool>);

    impl Drop for Temporary<'_> {
        fn drop(&mut self) {
            self.0.set(redirected());
        }
    }

    alone(|Layer { tp, .. }| {
        let dropped_inside = Cell::new(false);
        symm!(group = tp, { Temporary(&dropped_inside).0.get() })?;
        assert!(dropped_inside.get());
        Ok(())
    })
}
