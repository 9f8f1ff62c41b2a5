// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What each program wants to be told, with places for what differs from pair to pair: `{dev}`, `{port}`, `{gid}`,
//! `{netdev}`, `{own}` and `{peer}` (addresses), `{name}` (of the peer).

use super::App;

/// Names and values.
type Variables = &'static [(&'static str, &'static str)];

/// Settings of a program.
pub struct Recipe {
    pub name: &'static str,
    /// What it is for, as docs/recipes.md says it.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test makes the page"))]
    pub about: &'static str,
    /// Whether the lab's case `tool_app` runs the commands as they are printed, and judges what goes over.
    pub tried: bool,
    pub needs: &'static [Need],
    /// Names and values, in groups that several programs share.
    pub environment: &'static [Variables],
    /// Commands to try it with, on the peer first.
    pub there: &'static [&'static str],
    pub here: &'static [&'static str],
    pub notes: &'static [&'static str],
}

/// What must be installed, and where it comes from.
pub enum Need {
    Program(&'static str, &'static str),
    /// Any file that begins with one of these.
    Library(&'static [&'static str], &'static str),
    Python(&'static str, &'static str),
    Module(&'static str, &'static str),
}

/// The settings of UCX, with which MPI comes too.
const UCX: Variables = &[
    ("UCX_NET_DEVICES", "{dev}:{port}"),
    ("UCX_TLS", "rc_verbs,ud_verbs:aux,self,sm"),
    ("UCX_IB_GID_INDEX", "{gid}"),
];
/// The settings of NCCL and RCCL, with which torch and vLLM come too.
const NCCL: Variables = &[
    ("NCCL_NET", "IB"),
    ("NCCL_IB_HCA", "={dev}:{port}"),
    ("NCCL_IB_GID_INDEX", "{gid}"),
    ("NCCL_SOCKET_IFNAME", "={netdev}"),
];
const NCCL_NOTES: &[&str] = &[
    "NCCL_NET=IB has NCCL and RCCL fail where they would fall back to TCP in silence; with NCCL_DEBUG=INFO they say \
     NET/IB",
    "in a container: --device /dev/infiniband --network host --ulimit memlock=-1",
];

const SEGMENTS: &str = "UCX_RC_VERBS_SEG_SIZE=65536 doubles and more what goes over from 8 to 256 KiB \
                        (docs/benchmarks.md), and takes some 300 MB for receives in each process";

const ALL: &[(App, Recipe)] = &[
    (
        App::Perftest,
        Recipe {
            name: "perftest",
            about: "`ib_write_bw` and its kin: the first thing to run",
            tried: true,
            needs: &[Need::Program("ib_write_bw", "Debian: perftest")],
            environment: &[],
            there: &["ib_write_bw -F --report_gbits"],
            here: &["ib_write_bw -d {dev} -x {gid} -F --report_gbits {peer}"],
            notes: &["ib_write_lat, ib_send_bw, ib_read_bw and the others take the same words"],
        },
    ),
    (
        App::Ucx,
        Recipe {
            name: "ucx",
            about: "Whatever goes by UCX",
            tried: true,
            needs: &[Need::Program("ucx_perftest", "Debian: ucx-utils")],
            environment: &[UCX],
            there: &["ucx_perftest"],
            here: &["ucx_perftest {peer} -t tag_bw -s 1048576 -n 1000"],
            notes: &[
                "UCX_TLS without tcp has it fail where it would fall back to TCP in silence",
                SEGMENTS,
                "without a terminal ucx_perftest waits for mpirun",
            ],
        },
    ),
    (
        App::Libfabric,
        Recipe {
            name: "libfabric",
            about: "Whatever goes by libfabric, by its providers `verbs` and `ofi_rxm`",
            tried: true,
            needs: &[Need::Program("fi_pingpong", "Debian: libfabric-bin")],
            environment: &[&[("FI_PROVIDER", "verbs;ofi_rxm"), ("FI_VERBS_IFACE", "{netdev}")]],
            there: &["fi_pingpong -p 'verbs;ofi_rxm' -e rdm"],
            here: &["fi_pingpong -p 'verbs;ofi_rxm' -e rdm {peer}"],
            notes: &[],
        },
    ),
    (
        App::Mpi,
        Recipe {
            name: "mpi",
            about: "Open MPI over UCX; `make bench-apps` runs it in the lab with UCX's settings from here",
            tried: false,
            needs: &[Need::Program("mpirun", "Debian: openmpi-bin")],
            environment: &[
                &[
                    ("OMPI_MCA_pml", "ucx"),
                    ("OMPI_MCA_opal_common_ucx_tls", "any"),
                    ("OMPI_MCA_opal_common_ucx_devices", "any"),
                    ("OMPI_MCA_oob_tcp_if_include", "{netdev}"),
                ],
                UCX,
            ],
            there: &[],
            here: &["mpirun -np 2 --host localhost:1,{peer}:1 -x UCX_TLS -x UCX_NET_DEVICES -x UCX_IB_GID_INDEX PROGRAM"],
            notes: &[
                "the variables are for both hosts: where the devices have other names there, set UCX_NET_DEVICES there \
                 and leave out its -x",
                SEGMENTS,
            ],
        },
    ),
    (
        App::Nccl,
        Recipe {
            name: "nccl",
            about: "NVIDIA's NCCL and AMD's RCCL by themselves, as nccl-tests and rccl-tests use them",
            tried: false,
            needs: &[Need::Library(&["libnccl.so", "librccl.so"], "NVIDIA's NCCL or ROCm's RCCL")],
            environment: &[NCCL],
            there: &[],
            here: &["mpirun -np 2 --host localhost:1,{peer}:1 -x NCCL_NET -x NCCL_IB_HCA -x NCCL_IB_GID_INDEX \
                     -x NCCL_SOCKET_IFNAME all_reduce_perf -b 1K -e 1G -f 2 -g 1"],
            notes: NCCL_NOTES,
        },
    ),
    (
        App::Torch,
        Recipe {
            name: "torch",
            about: "PyTorch, distributed, with the back end `nccl`",
            tried: false,
            needs: &[Need::Python("torch", "pip install torch")],
            environment: &[NCCL, &[("GLOO_SOCKET_IFNAME", "{netdev}")]],
            there: &["torchrun --nnodes 2 --node-rank 1 --nproc-per-node 1 --master-addr {own} PROGRAM"],
            here: &["torchrun --nnodes 2 --node-rank 0 --nproc-per-node 1 --master-addr {own} PROGRAM"],
            notes: &[
                NCCL_NOTES[0],
                NCCL_NOTES[1],
                "the back end gloo goes over TCP whatever is set; nccl (on AMD too) is the one over RDMA",
            ],
        },
    ),
    (
        App::Vllm,
        Recipe {
            name: "vllm",
            about: "vLLM with one model over two hosts",
            tried: false,
            needs: &[Need::Python("vllm", "pip install vllm")],
            environment: &[NCCL, &[("GLOO_SOCKET_IFNAME", "{netdev}"), ("VLLM_HOST_IP", "{own}")]],
            there: &["ray start --address {own}:6379 --block"],
            here: &["ray start --head --node-ip-address {own}", "vllm serve MODEL --tensor-parallel-size 2"],
            notes: NCCL_NOTES,
        },
    ),
    (
        App::Llama,
        Recipe {
            name: "llama",
            about: "llama.cpp with its RPC server on the other host",
            tried: false,
            needs: &[Need::Program("llama-cli", "llama.cpp, built with GGML_RPC and GGML_RPC_RDMA")],
            environment: &[&[("GGML_RDMA_DEV", "{dev}"), ("GGML_RDMA_GID", "{gid}")]],
            there: &["rpc-server -H {peer} -p 50052"],
            here: &["llama-cli --rpc {peer}:50052 -m MODEL -ngl 99"],
            notes: &["it falls back to TCP in silence: with RDMA both ends say \"RDMA activated\""],
        },
    ),
    (
        App::Gufo,
        Recipe {
            name: "gufo",
            about: "gufo, tensor parallel over two hosts",
            tried: false,
            needs: &[Need::Program("gufo", "its own repository")],
            environment: &[],
            there: &[],
            here: &["gufo --tp-rdma-device {dev} ... (each host its own device)"],
            notes: &["where it asks for a GID's index, {gid} is that of the IPv4 address {own}"],
        },
    ),
    (
        App::Ds4,
        Recipe {
            name: "ds4",
            about: "ds4 with its transport `rdma`",
            tried: false,
            needs: &[Need::Library(&["libibverbs.so.1"], "Debian: libibverbs1")],
            environment: &[],
            there: &[],
            here: &[],
            notes: &["it opens libibverbs when it starts, and takes the GID of the IPv4 address by itself: here that is \
                      index {gid} of {dev}, {own}; the peer is {peer}"],
        },
    ),
    (
        App::Jaccl,
        Recipe {
            name: "jaccl",
            about: "JACCL, the collectives of MLX",
            tried: false,
            needs: &[Need::Library(&["libibverbs.so.1"], "Debian: libibverbs1")],
            environment: &[&[("JACCL_IBV_DEVICES", "jaccl.json"), ("JACCL_COORDINATOR", "{own}:32323")]],
            there: &["export JACCL_COORDINATOR={own}:32323 JACCL_RANK=1"],
            here: &["export JACCL_RANK=0"],
            notes: &["jaccl.json is the matrix of devices, the same file on all hosts: here {dev} leads to {name}"],
        },
    ),
    (
        App::Nfs,
        Recipe {
            name: "nfs",
            about: "NFS over RDMA, this host being the client ([storage](storage.md))",
            tried: false,
            needs: &[
                Need::Module("rpcrdma", "a kernel with CONFIG_SUNRPC_XPRT_RDMA"),
                Need::Program("mount.nfs", "Debian: nfs-common"),
            ],
            environment: &[],
            there: &["modprobe rpcrdma && echo rdma 20049 > /proc/fs/nfsd/portlist"],
            here: &["modprobe rpcrdma && mount -t nfs -o rdma,port=20049 {peer}:/EXPORT /mnt"],
            notes: &["`grep proto= /proc/mounts` says proto=rdma"],
        },
    ),
];

/// What is said of a recipe that the lab does not run.
pub const UNTRIED: &str =
    "printed only: nobody has tried these settings with this driver yet; `-- COMMAND` behind this \
                           command tells whether they use RDMA";

/// The recipe of an app.
pub fn of(app: App) -> &'static Recipe {
    let found = ALL.iter().find(|(one, _)| *one == app);
    // A test sees to it that each has one.
    &found.unwrap_or(&ALL[0]).1
}
