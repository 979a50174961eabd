//! Runs the `inference` command and looks at what it prints, and how it ends.

// mod backends;
mod help;
mod run;
mod template;
mod tokenize;
