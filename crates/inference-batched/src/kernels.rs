//! Kernels for the instruction sets that there are, and what runs them.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod execute;
pub(crate) mod interleaved;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod per_model;
mod portable;
mod rows;
pub(crate) mod scratch;
mod simd;
mod stop;
pub(crate) mod workers;

#[cfg(test)]
mod tests;

use rows::{LaneRows, Rows};
use scratch::Scratch;
use simd::{Bf16, Element, F16, F32};
use stop::Stop;

use crate::WeightDtype;
use crate::layout::PackedLayout;

/// All layers for the rows of one model: [`per_model::forward`].
pub(crate) type PerModel = unsafe fn(&PackedLayout, *const u8, Rows, &mut Scratch, &Stop<'_>);
/// All layers for the rows of a group: [`interleaved::forward`].
pub(crate) type Interleaved =
    unsafe fn(&PackedLayout, *const u8, &LaneRows, &mut Scratch, &Stop<'_>);

/// The kernels of one instruction set for one type of weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    /// The instruction set's name.
    pub(crate) name: &'static str,
    pub(crate) per_model: PerModel,
    pub(crate) interleaved: Interleaved,
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstructionSet {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
    /// [`Portable`](Self::Portable) with the bits of fused multiply-adds.
    #[cfg(test)]
    Oracle,
}

impl InstructionSet {
    /// Those that this CPU has, the best first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, std::is_x86_feature_detected!("avx512f")),
            #[cfg(target_arch = "x86_64")]
            (
                Self::Avx2,
                std::is_x86_feature_detected!("avx2")
                    && std::is_x86_feature_detected!("fma")
                    && std::is_x86_feature_detected!("f16c"),
            ),
            #[cfg(target_arch = "aarch64")]
            (Self::Neon, std::arch::is_aarch64_feature_detected!("neon")),
            (Self::Portable, true),
        ]
        .into_iter()
        .filter_map(|(set, there)| there.then_some(set))
    }

    /// The best that this CPU has.
    pub(crate) fn best() -> Self {
        Self::available().next().unwrap_or(Self::Portable)
    }

    /// Its kernels for weights of `dtype`.
    pub(crate) fn kernels(self, dtype: WeightDtype) -> Kernels {
        match dtype {
            WeightDtype::F32 => self.kernels_of::<F32>(),
            WeightDtype::F16 => self.kernels_of::<F16>(),
            WeightDtype::Bf16 => self.kernels_of::<Bf16>(),
        }
    }

    fn kernels_of<E: Element>(self) -> Kernels {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86_512::kernels::<E>(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86_256::kernels::<E>(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => arm::kernels::<E>(),
            Self::Portable => any::kernels::<E>(),
            #[cfg(test)]
            Self::Oracle => oracle::kernels::<E>(),
        }
    }
}

/// The generic kernels, compiled for an instruction set.
macro_rules! compiled {
    ($module:ident, $simd:ty, $name:literal $(, $features:literal)?) => {
        mod $module {
            use super::*;

            pub(super) fn kernels<E: Element>() -> Kernels {
                Kernels { name: $name, per_model: per_model::<E>, interleaved: interleaved::<E> }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn per_model<E: Element>(
                layout: &PackedLayout,
                weights: *const u8,
                rows: Rows,
                scratch: &mut Scratch,
                stop: &Stop<'_>,
            ) {
                // SAFETY: as the caller promises; these are the features of `Simd`.
                unsafe {
                    super::per_model::forward::<$simd, E>(
                        layout, weights.cast(), rows, scratch, stop,
                    );
                }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn interleaved<E: Element>(
                layout: &PackedLayout,
                weights: *const u8,
                lanes: &LaneRows,
                scratch: &mut Scratch,
                stop: &Stop<'_>,
            ) {
                // SAFETY: as above.
                unsafe {
                    super::interleaved::forward::<$simd, E>(
                        layout, weights.cast(), lanes, scratch, stop,
                    );
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled!(x86_512, avx512::Avx512, "avx512", "avx512f");
#[cfg(target_arch = "x86_64")]
compiled!(x86_256, avx2::Avx2, "avx2", "avx2,fma,f16c");
#[cfg(target_arch = "aarch64")]
compiled!(arm, neon::Neon, "neon", "neon");
compiled!(any, portable::Portable<false>, "portable");
#[cfg(test)]
compiled!(oracle, portable::Portable<true>, "oracle");
