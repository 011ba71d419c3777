//! The operators' API: who may what, sites from their wish to their removal, repetitions, pages, a store that is away. Every
//! answer that a test gets is held against the OpenAPI document.

mod access;
mod document;
mod files;
mod handbook;
mod pages;
mod repetition;
mod service;
mod story;
mod trouble;
mod verbs;
