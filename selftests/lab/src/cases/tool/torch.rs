// SPDX-License-Identifier: GPL-2.0 OR MIT
//! torch.distributed over what `usb4rdma up` made, with the settings that `doctor --app mpi` prints.

use super::checked;
use super::up::{discovered, down, up};
use crate::apps::join;
use crate::cases::{long, own, Case, Context, Skip};
use crate::lab::Lab;
use crate::log::Mark;
use crate::paths;
use crate::runner::kernel_trouble;
use crate::spec::{LabSpec, NetDriver, Profile, Root, Topology};
use anyhow::{bail, ensure, Context as _, Result};
use serde_json::Value;
use std::time::Duration;

// The guests load torch, of 350 MB, each: a minute.
pub const CASES: &[Case] = &[long(own(
    "tool_torch",
    "torch's all_reduce, all_gather and broadcast over usb4rdma up, by MPI as doctor --app mpi prints it, checked; it goes \
     by RDMA",
    torch,
))];

const MINUTES: Duration = Duration::from_secs(300);
/// What torch and UCX's buffers need, MiB.
const MEMORY_MIB: u32 = 1536;

fn torch(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let there = paths::root(Root::Workloads).map(|root| root.join("usr/lib/python3/dist-packages/torch").exists());
    if !matches!(there, Ok(true)) {
        return Err(Skip("no workloads' root with torch: `make setup-workloads`".into()).into());
    }
    let spec = LabSpec {
        kernel: context.kernel,
        seed: context.seed,
        net: vec![NetDriver::None; 2],
        root: Root::Workloads,
        memory_mib: MEMORY_MIB,
        ..LabSpec::wired(Profile::Strix, Topology::Pair, 2, 1)?
    };
    let lab = Lab::up(&format!("test-torch-{}", std::process::id()), spec)?;
    let logs: Vec<Mark> = (0..2).map(|host| Mark::start(&lab.console(host))).collect();
    discovered(&lab, 1)?;
    up(&lab, "")?;
    let report = checked("app", &lab.ok(0, &["usb4rdma", "doctor", "--app", "mpi", "--json"])?)?;
    let pair = &report["pairs"][0];
    let address = |name: &str| pair[name].as_str().map(String::from).context("no address");
    join(&lab, &[address("address")?, address("peer_address")?])?;
    let printed = pair["here"]
        .as_array()
        .and_then(|lines| lines.last())
        .and_then(Value::as_str);
    let printed = printed.context("no line")?;
    ensure!(
        printed.starts_with("mpirun ") && printed.ends_with(" PROGRAM"),
        "{printed}"
    );
    // mpirun and torch's fork of it want to be told that root means it.
    let program = "python3 /usb4lab/torch-allreduce.py 4096 65536 1048576 16777216";
    let line = format!(
        "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; usb4rdma doctor --app mpi --json -- {}",
        printed.replace("PROGRAM", program)
    );
    let output = lab.run(0, &["/bin/sh", "-c", &line], MINUTES)?;
    let said = output.errors();
    ensure!(
        said.contains("torch OK, 53686272 bytes"),
        "{line}: status {}\n{}{said}",
        output.status,
        output.text()
    );
    let proof = checked("app", &output.text()).with_context(|| said.clone())?;
    ensure!(output.status == 0 && proof["proof"]["verdict"] == "rdma", "{proof}");
    eprintln!("{}", proof["proof"]["text"]);
    down(&lab)?;
    if let Some(trouble) = kernel_trouble(&logs)? {
        bail!("a kernel complained:\n{trouble}");
    }
    lab.discard();
    Ok(())
}
