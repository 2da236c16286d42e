//! What lies in `deploy/` fits what the programs are: manifests, dashboards, rules, image, scripts.

mod fits;
mod image;
mod machine;
mod schemas;
mod telemetry;
