//! The cipher suites on vector units. It knows keys, nonces and bytes; it must never know what a packet is. Everything
//! here has a twin in `keys.rs`, made of crates, that gives the same bytes on every processor.
//!
//! # Detection
//! [`Backend::best`] asks the processor (`is_x86_feature_detected!`, which also asks whether the kernel saves the
//! registers) and the answer is kept with the scheduled keys: once per [`Keys`](crate::Keys), never per packet. A type of
//! this module exists only if its constructor found the features that its code was compiled for.
//!
//! # Guarantees
//! - The same bytes on every backend: all recorded vectors run on each, and each is compared with
//!   [`Backend::Portable`] on random input of every length and alignment.
//! - Nothing outside the slices is read or written: ends are taken with masked moves or through a block on the stack.
//! - No branch and no address depends on a secret. Scheduled keys and a packet's MAC key are wiped when dropped; what the
//!   arithmetic leaves in registers and on the stack is not.
//! - This folder is the only place of the crate with `unsafe`: the step from detected features into a function that was
//!   compiled for them, and unaligned loads and stores between byte arrays and registers of the same size.

#![allow(unsafe_code)]

#[cfg(not(target_arch = "x86_64"))]
mod absent;
#[cfg(target_arch = "x86_64")]
mod aes_gmac_siv;
#[cfg(target_arch = "x86_64")]
mod bytes;
#[cfg(target_arch = "x86_64")]
mod poly1305;
#[cfg(target_arch = "x86_64")]
mod salsa2012;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use absent::{GmacSiv, Poly1305, Salsa2012};
#[cfg(target_arch = "x86_64")]
pub(crate) use aes_gmac_siv::GmacSiv;
#[cfg(target_arch = "x86_64")]
pub(crate) use poly1305::Poly1305;
#[cfg(target_arch = "x86_64")]
pub(crate) use salsa2012::Salsa2012;

/// Bytes of four blocks of Salsa20, which are made together.
pub(crate) const QUAD_LEN: usize = 4 * 64;

/// Which instructions protect packets. The bytes are the same on all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The crates, on any processor.
    Portable,
    /// AES-NI, PCLMULQDQ and AVX2: any x86-64 server since 2013.
    Avx2,
    /// VAES, VPCLMULQDQ and AVX-512 with IFMA: Intel since Ice Lake, AMD since Zen 4.
    Avx512,
}

impl Backend {
    /// Slowest first.
    pub const ALL: [Backend; 3] = [Backend::Portable, Backend::Avx2, Backend::Avx512];

    /// The fastest one that this processor has.
    pub fn best() -> Backend {
        Backend::available().last().unwrap_or(Backend::Portable)
    }

    /// Those that this processor has, slowest first.
    pub fn available() -> impl Iterator<Item = Backend> {
        Backend::ALL.into_iter().filter(|backend| backend.is_available())
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Backend::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("aes")
                    && is_x86_feature_detected!("pclmulqdq")
            }
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => {
                Backend::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512ifma")
                    && is_x86_feature_detected!("vaes")
                    && is_x86_feature_detected!("vpclmulqdq")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Backend::Avx2 | Backend::Avx512 => false,
        }
    }
}
