//! What buffers hold: the number types that NCCL moves and reduces.

use std::fmt::Debug;

use half::{bf16, f16};

/// NCCL's number of a type (`ncclDataType_t`).
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Dtype {
    I8 = 0,
    U8 = 1,
    I32 = 2,
    U32 = 3,
    I64 = 4,
    U64 = 5,
    F16 = 6,
    F32 = 7,
    F64 = 8,
    Bf16 = 9,
}

impl Dtype {
    /// Bytes of one element.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Dtype::I8 | Dtype::U8 => 1,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::I32 | Dtype::U32 | Dtype::F32 => 4,
            Dtype::I64 | Dtype::U64 | Dtype::F64 => 8,
        }
    }
}

mod sealed {
    pub trait Sealed {
        #[doc(hidden)]
        const DTYPE: super::Dtype;
    }
}

/// A number that buffers hold: `i8`, `u8`, `i32`, `u32`, `i64`, `u64`, [`f16`](struct@f16), [`bf16`], `f32`,
/// `f64`.
///
/// Sealed: these are NCCL's types, each valid for every bit pattern.
///
/// ```
/// fn bytes<T: symm_core::Element>(elements: usize) -> usize {
///     elements * size_of::<T>()
/// }
/// assert_eq!(bytes::<symm_core::bf16>(8), 16);
/// ```
#[diagnostic::on_unimplemented(
    message = "a buffer cannot hold `{Self}`",
    label = "not one of NCCL's types",
    note = "they are `i8`, `u8`, `i32`, `u32`, `i64`, `u64`, `f16`, `bf16`, `f32` and `f64`"
)]
pub trait Element:
    sealed::Sealed + Copy + Debug + Default + PartialEq + Send + Sync + 'static
{
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),* $(,)?) => { $(
        #[diagnostic::do_not_recommend]
        impl sealed::Sealed for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        }
        #[diagnostic::do_not_recommend]
        impl Element for $type {}
    )* };
}

elements! {
    i8 => I8, u8 => U8, i32 => I32, u32 => U32, i64 => I64, u64 => U64,
    f16 => F16, f32 => F32, f64 => F64, bf16 => Bf16,
}
