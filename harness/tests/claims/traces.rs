//! A program that was killed leaves nothing behind.
