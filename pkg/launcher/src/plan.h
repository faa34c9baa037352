/* Written by planheader from pkg/plan/format.go, where the words are explained. */
#define PLAN_VERSION 7
#define PLAN_KIND_LINKED 1
#define PLAN_KIND_WARM 2
#define PLAN_FLAG_CHECK_EXEC 1
#define PLAN_FLAG_KEEP_BRK 2
#define PLAN_FLAG_OWN_PATH 4
#define PLAN_FLAG_NEEDS_EXE 8
#define PLAN_FLAG_SET_EXE 16
#define PLAN_FLAG_PROGRAM_ARG 64
#define PLAN_FILE_PROGRAM 1
#define PLAN_FILE_PAGES 2
#define PLAN_FILE_LINKER 4
#define PLAN_FILE_EXE 8
#define PLAN_DIRECTORY_EXACT 1
#define PLAN_ENV_EXACT 1
#define PLAN_ENV_PREFIX 2
#define PLAN_START_EXPLAIN 1
#define PLAN_START_STRICT 2
#define PLAN_UMASK_COMPARED 2147483648
#define PLAN_FIX_SP 0
#define PLAN_FIX_ARGV 1
#define PLAN_FIX_ENVP 2
#define PLAN_FIX_AUXV 3
#define PLAN_FIX_PLATFORM 4
#define PLAN_FIX_RANDOM 5
#define PLAN_FIX_EXECFN 6
#define PLAN_FIX_ARGC 7
#define PLAN_FIX_TID 8
#define PLAN_FIX_CANARY 9
#define PLAN_FIX_GUARD 10
#define PLAN_FIX_STACK_SIZE 11
#define PLAN_FIX_IGNORED 12
#define PLAN_FIX_FLAGS 13
#define PLAN_FIX_KINDS 14
#define PLAN_MAGIC 0x004e414c50534552ULL

struct plan_table {
	u32 off;
	u32 count;
};
_Static_assert(sizeof(struct plan_table) == 8, "size");
_Static_assert(__builtin_offsetof(struct plan_table, off) == 0, "Off");
_Static_assert(__builtin_offsetof(struct plan_table, count) == 4, "Count");

struct plan_file_id {
	u64 dev;
	u64 ino;
	u64 size;
	s64 mtime;
	s64 ctime;
};
_Static_assert(sizeof(struct plan_file_id) == 40, "size");
_Static_assert(__builtin_offsetof(struct plan_file_id, dev) == 0, "Dev");
_Static_assert(__builtin_offsetof(struct plan_file_id, ino) == 8, "Ino");
_Static_assert(__builtin_offsetof(struct plan_file_id, size) == 16, "Size");
_Static_assert(__builtin_offsetof(struct plan_file_id, mtime) == 24, "Mtime");
_Static_assert(__builtin_offsetof(struct plan_file_id, ctime) == 32, "Ctime");

struct plan_caller {
	u64 hw_cap;
	u64 hw_cap2;
	u64 page_size;
	u64 clock_tick;
	u64 flags;
	u64 min_sig_stack;
	u64 rseq_size;
	u64 rseq_align;
	u64 xcr0;
	u64 maps_end;
	unsigned char boot_id[40];
	u64 machine_sum;
	u64 boot_mark;
};
_Static_assert(sizeof(struct plan_caller) == 136, "size");
_Static_assert(__builtin_offsetof(struct plan_caller, hw_cap) == 0, "HWCap");
_Static_assert(__builtin_offsetof(struct plan_caller, hw_cap2) == 8, "HWCap2");
_Static_assert(__builtin_offsetof(struct plan_caller, page_size) == 16, "PageSize");
_Static_assert(__builtin_offsetof(struct plan_caller, clock_tick) == 24, "ClockTick");
_Static_assert(__builtin_offsetof(struct plan_caller, flags) == 32, "Flags");
_Static_assert(__builtin_offsetof(struct plan_caller, min_sig_stack) == 40, "MinSigStack");
_Static_assert(__builtin_offsetof(struct plan_caller, rseq_size) == 48, "RseqSize");
_Static_assert(__builtin_offsetof(struct plan_caller, rseq_align) == 56, "RseqAlign");
_Static_assert(__builtin_offsetof(struct plan_caller, xcr0) == 64, "XCR0");
_Static_assert(__builtin_offsetof(struct plan_caller, maps_end) == 72, "MapsEnd");
_Static_assert(__builtin_offsetof(struct plan_caller, boot_id) == 80, "BootID");
_Static_assert(__builtin_offsetof(struct plan_caller, machine_sum) == 120, "MachineSum");
_Static_assert(__builtin_offsetof(struct plan_caller, boot_mark) == 128, "BootMark");

struct plan_vdso {
	u64 addr;
	u64 code;
	u64 len;
	u64 parts[4];
	unsigned char build_id[32];
	u32 build_off;
	u32 build_len;
};
_Static_assert(sizeof(struct plan_vdso) == 96, "size");
_Static_assert(__builtin_offsetof(struct plan_vdso, addr) == 0, "Addr");
_Static_assert(__builtin_offsetof(struct plan_vdso, code) == 8, "Code");
_Static_assert(__builtin_offsetof(struct plan_vdso, len) == 16, "Len");
_Static_assert(__builtin_offsetof(struct plan_vdso, parts) == 24, "Parts");
_Static_assert(__builtin_offsetof(struct plan_vdso, build_id) == 56, "BuildID");
_Static_assert(__builtin_offsetof(struct plan_vdso, build_off) == 88, "BuildOff");
_Static_assert(__builtin_offsetof(struct plan_vdso, build_len) == 92, "BuildLen");

struct plan_mm {
	u64 start_code;
	u64 end_code;
	u64 start_data;
	u64 end_data;
	u64 brk_base;
	u64 brk;
};
_Static_assert(sizeof(struct plan_mm) == 48, "size");
_Static_assert(__builtin_offsetof(struct plan_mm, start_code) == 0, "StartCode");
_Static_assert(__builtin_offsetof(struct plan_mm, end_code) == 8, "EndCode");
_Static_assert(__builtin_offsetof(struct plan_mm, start_data) == 16, "StartData");
_Static_assert(__builtin_offsetof(struct plan_mm, end_data) == 24, "EndData");
_Static_assert(__builtin_offsetof(struct plan_mm, brk_base) == 32, "BrkBase");
_Static_assert(__builtin_offsetof(struct plan_mm, brk) == 40, "Brk");

struct plan_kernel {
	u64 fs_base;
	u64 tid_addr;
	u64 robust_head;
	u64 robust_len;
	u64 rseq_addr;
	u32 rseq_len;
	u32 rseq_sig;
};
_Static_assert(sizeof(struct plan_kernel) == 48, "size");
_Static_assert(__builtin_offsetof(struct plan_kernel, fs_base) == 0, "FSBase");
_Static_assert(__builtin_offsetof(struct plan_kernel, tid_addr) == 8, "TIDAddr");
_Static_assert(__builtin_offsetof(struct plan_kernel, robust_head) == 16, "RobustHead");
_Static_assert(__builtin_offsetof(struct plan_kernel, robust_len) == 24, "RobustLen");
_Static_assert(__builtin_offsetof(struct plan_kernel, rseq_addr) == 32, "RseqAddr");
_Static_assert(__builtin_offsetof(struct plan_kernel, rseq_len) == 40, "RseqLen");
_Static_assert(__builtin_offsetof(struct plan_kernel, rseq_sig) == 44, "RseqSig");

struct plan_entry {
	u64 rip;
	u64 rsp;
	u64 rbx;
	u64 rbp;
	u64 r12;
	u64 r13;
	u64 r14;
	u64 r15;
	u64 gadget;
	u64 sig_return;
	u64 phdr;
	u64 phent;
	u64 phnum;
	u64 base;
	u64 program_entry;
};
_Static_assert(sizeof(struct plan_entry) == 120, "size");
_Static_assert(__builtin_offsetof(struct plan_entry, rip) == 0, "RIP");
_Static_assert(__builtin_offsetof(struct plan_entry, rsp) == 8, "RSP");
_Static_assert(__builtin_offsetof(struct plan_entry, rbx) == 16, "RBX");
_Static_assert(__builtin_offsetof(struct plan_entry, rbp) == 24, "RBP");
_Static_assert(__builtin_offsetof(struct plan_entry, r12) == 32, "R12");
_Static_assert(__builtin_offsetof(struct plan_entry, r13) == 40, "R13");
_Static_assert(__builtin_offsetof(struct plan_entry, r14) == 48, "R14");
_Static_assert(__builtin_offsetof(struct plan_entry, r15) == 56, "R15");
_Static_assert(__builtin_offsetof(struct plan_entry, gadget) == 64, "Gadget");
_Static_assert(__builtin_offsetof(struct plan_entry, sig_return) == 72, "SigReturn");
_Static_assert(__builtin_offsetof(struct plan_entry, phdr) == 80, "Phdr");
_Static_assert(__builtin_offsetof(struct plan_entry, phent) == 88, "Phent");
_Static_assert(__builtin_offsetof(struct plan_entry, phnum) == 96, "Phnum");
_Static_assert(__builtin_offsetof(struct plan_entry, base) == 104, "Base");
_Static_assert(__builtin_offsetof(struct plan_entry, program_entry) == 112, "ProgramEntry");

struct plan_stop {
	u64 addr;
	u32 point;
	u32 pad2;
};
_Static_assert(sizeof(struct plan_stop) == 16, "size");
_Static_assert(__builtin_offsetof(struct plan_stop, addr) == 0, "Addr");
_Static_assert(__builtin_offsetof(struct plan_stop, point) == 8, "Point");

struct plan_warm {
	u32 executed;
	u32 pad1;
	u64 stack_limit;
	u64 pid;
	unsigned char cpus[128];
	u32 cpus_len;
	u32 terminals;
	unsigned char first_layouts[8];
	unsigned char layout_counts[8];
	u64 net_ns;
	unsigned char host[72];
	u32 umask;
	u32 pad12;
};
_Static_assert(sizeof(struct plan_warm) == 264, "size");
_Static_assert(__builtin_offsetof(struct plan_warm, executed) == 0, "Executed");
_Static_assert(__builtin_offsetof(struct plan_warm, stack_limit) == 8, "StackLimit");
_Static_assert(__builtin_offsetof(struct plan_warm, pid) == 16, "PID");
_Static_assert(__builtin_offsetof(struct plan_warm, cpus) == 24, "CPUs");
_Static_assert(__builtin_offsetof(struct plan_warm, cpus_len) == 152, "CPUsLen");
_Static_assert(__builtin_offsetof(struct plan_warm, terminals) == 156, "Terminals");
_Static_assert(__builtin_offsetof(struct plan_warm, first_layouts) == 160, "FirstLayouts");
_Static_assert(__builtin_offsetof(struct plan_warm, layout_counts) == 168, "LayoutCounts");
_Static_assert(__builtin_offsetof(struct plan_warm, net_ns) == 176, "NetNS");
_Static_assert(__builtin_offsetof(struct plan_warm, host) == 184, "Host");
_Static_assert(__builtin_offsetof(struct plan_warm, umask) == 256, "Umask");

struct plan_header {
	unsigned char magic[8];
	u32 version;
	u32 kind;
	u64 size;
	u64 sum;
	u32 program;
	u32 real;
	u32 id;
	u32 flags;
	struct plan_table files;
	struct plan_table anon;
	struct plan_table maps;
	struct plan_table protects;
	struct plan_table fixups;
	struct plan_table checks;
	struct plan_table directories;
	struct plan_table misses;
	struct plan_table answers;
	struct plan_table entries;
	struct plan_table layouts;
	struct plan_table cpuid;
	struct plan_table strings;
	struct plan_table args;
	struct plan_table env;
	struct plan_table copies;
	struct plan_table signals;
	struct plan_table populate;
	struct plan_caller caller;
	struct plan_vdso vdso;
	struct plan_mm mm;
	struct plan_kernel kernel;
	struct plan_entry entry;
	struct plan_stop stop;
	struct plan_warm warm;
};
_Static_assert(sizeof(struct plan_header) == 920, "size");
_Static_assert(__builtin_offsetof(struct plan_header, magic) == 0, "Magic");
_Static_assert(__builtin_offsetof(struct plan_header, version) == 8, "Version");
_Static_assert(__builtin_offsetof(struct plan_header, kind) == 12, "Kind");
_Static_assert(__builtin_offsetof(struct plan_header, size) == 16, "Size");
_Static_assert(__builtin_offsetof(struct plan_header, sum) == 24, "Sum");
_Static_assert(__builtin_offsetof(struct plan_header, program) == 32, "Program");
_Static_assert(__builtin_offsetof(struct plan_header, real) == 36, "Real");
_Static_assert(__builtin_offsetof(struct plan_header, id) == 40, "ID");
_Static_assert(__builtin_offsetof(struct plan_header, flags) == 44, "Flags");
_Static_assert(__builtin_offsetof(struct plan_header, files) == 48, "Files");
_Static_assert(__builtin_offsetof(struct plan_header, anon) == 56, "Anon");
_Static_assert(__builtin_offsetof(struct plan_header, maps) == 64, "Maps");
_Static_assert(__builtin_offsetof(struct plan_header, protects) == 72, "Protects");
_Static_assert(__builtin_offsetof(struct plan_header, fixups) == 80, "Fixups");
_Static_assert(__builtin_offsetof(struct plan_header, checks) == 88, "Checks");
_Static_assert(__builtin_offsetof(struct plan_header, directories) == 96, "Directories");
_Static_assert(__builtin_offsetof(struct plan_header, misses) == 104, "Misses");
_Static_assert(__builtin_offsetof(struct plan_header, answers) == 112, "Answers");
_Static_assert(__builtin_offsetof(struct plan_header, entries) == 120, "Entries");
_Static_assert(__builtin_offsetof(struct plan_header, layouts) == 128, "Layouts");
_Static_assert(__builtin_offsetof(struct plan_header, cpuid) == 136, "CPUID");
_Static_assert(__builtin_offsetof(struct plan_header, strings) == 144, "Strings");
_Static_assert(__builtin_offsetof(struct plan_header, args) == 152, "Args");
_Static_assert(__builtin_offsetof(struct plan_header, env) == 160, "Env");
_Static_assert(__builtin_offsetof(struct plan_header, copies) == 168, "Copies");
_Static_assert(__builtin_offsetof(struct plan_header, signals) == 176, "Signals");
_Static_assert(__builtin_offsetof(struct plan_header, populate) == 184, "Populate");
_Static_assert(__builtin_offsetof(struct plan_header, caller) == 192, "Caller");
_Static_assert(__builtin_offsetof(struct plan_header, vdso) == 328, "VDSO");
_Static_assert(__builtin_offsetof(struct plan_header, mm) == 424, "MM");
_Static_assert(__builtin_offsetof(struct plan_header, kernel) == 472, "Kernel");
_Static_assert(__builtin_offsetof(struct plan_header, entry) == 520, "Entry");
_Static_assert(__builtin_offsetof(struct plan_header, stop) == 640, "Stop");
_Static_assert(__builtin_offsetof(struct plan_header, warm) == 656, "Warm");

struct plan_file {
	u32 path;
	u32 flags;
	u32 first_map;
	u32 maps;
	struct plan_file_id id;
};
_Static_assert(sizeof(struct plan_file) == 56, "size");
_Static_assert(__builtin_offsetof(struct plan_file, path) == 0, "Path");
_Static_assert(__builtin_offsetof(struct plan_file, flags) == 4, "Flags");
_Static_assert(__builtin_offsetof(struct plan_file, first_map) == 8, "FirstMap");
_Static_assert(__builtin_offsetof(struct plan_file, maps) == 12, "Maps");
_Static_assert(__builtin_offsetof(struct plan_file, id) == 16, "ID");

struct plan_map {
	u64 addr;
	u64 len;
	u64 off;
	u32 prot;
	u32 flags;
};
_Static_assert(sizeof(struct plan_map) == 32, "size");
_Static_assert(__builtin_offsetof(struct plan_map, addr) == 0, "Addr");
_Static_assert(__builtin_offsetof(struct plan_map, len) == 8, "Len");
_Static_assert(__builtin_offsetof(struct plan_map, off) == 16, "Off");
_Static_assert(__builtin_offsetof(struct plan_map, prot) == 24, "Prot");
_Static_assert(__builtin_offsetof(struct plan_map, flags) == 28, "Flags");

struct plan_protect {
	u64 addr;
	u64 len;
	u32 prot;
	u32 pad3;
};
_Static_assert(sizeof(struct plan_protect) == 24, "size");
_Static_assert(__builtin_offsetof(struct plan_protect, addr) == 0, "Addr");
_Static_assert(__builtin_offsetof(struct plan_protect, len) == 8, "Len");
_Static_assert(__builtin_offsetof(struct plan_protect, prot) == 16, "Prot");

struct plan_fixup {
	u64 addr;
	u32 kind;
	u32 size;
};
_Static_assert(sizeof(struct plan_fixup) == 16, "size");
_Static_assert(__builtin_offsetof(struct plan_fixup, addr) == 0, "Addr");
_Static_assert(__builtin_offsetof(struct plan_fixup, kind) == 8, "Kind");
_Static_assert(__builtin_offsetof(struct plan_fixup, size) == 12, "Size");

struct plan_check {
	u32 path;
	u32 answers;
	struct plan_file_id id;
};
_Static_assert(sizeof(struct plan_check) == 48, "size");
_Static_assert(__builtin_offsetof(struct plan_check, path) == 0, "Path");
_Static_assert(__builtin_offsetof(struct plan_check, answers) == 4, "Answers");
_Static_assert(__builtin_offsetof(struct plan_check, id) == 8, "ID");

struct plan_answer {
	u32 name;
	u32 first_entry;
	u32 entries;
};
_Static_assert(sizeof(struct plan_answer) == 12, "size");
_Static_assert(__builtin_offsetof(struct plan_answer, name) == 0, "Name");
_Static_assert(__builtin_offsetof(struct plan_answer, first_entry) == 4, "FirstEntry");
_Static_assert(__builtin_offsetof(struct plan_answer, entries) == 8, "Entries");

struct plan_cache_entry {
	u32 path;
	u32 subdir;
	u32 os_version;
	u32 pad3;
	u64 hw_cap;
};
_Static_assert(sizeof(struct plan_cache_entry) == 24, "size");
_Static_assert(__builtin_offsetof(struct plan_cache_entry, path) == 0, "Path");
_Static_assert(__builtin_offsetof(struct plan_cache_entry, subdir) == 4, "Subdir");
_Static_assert(__builtin_offsetof(struct plan_cache_entry, os_version) == 8, "OSVersion");
_Static_assert(__builtin_offsetof(struct plan_cache_entry, hw_cap) == 16, "HWCap");

struct plan_directory {
	u32 path;
	u32 first_miss;
	u32 misses;
	u32 flags;
	struct plan_file_id id;
};
_Static_assert(sizeof(struct plan_directory) == 56, "size");
_Static_assert(__builtin_offsetof(struct plan_directory, path) == 0, "Path");
_Static_assert(__builtin_offsetof(struct plan_directory, first_miss) == 4, "FirstMiss");
_Static_assert(__builtin_offsetof(struct plan_directory, misses) == 8, "Misses");
_Static_assert(__builtin_offsetof(struct plan_directory, flags) == 12, "Flags");
_Static_assert(__builtin_offsetof(struct plan_directory, id) == 16, "ID");

struct plan_cpuid {
	u32 leaf;
	u32 subleaf;
	u32 mask[4];
	u32 value[4];
};
_Static_assert(sizeof(struct plan_cpuid) == 40, "size");
_Static_assert(__builtin_offsetof(struct plan_cpuid, leaf) == 0, "Leaf");
_Static_assert(__builtin_offsetof(struct plan_cpuid, subleaf) == 4, "Subleaf");
_Static_assert(__builtin_offsetof(struct plan_cpuid, mask) == 8, "Mask");
_Static_assert(__builtin_offsetof(struct plan_cpuid, value) == 24, "Value");

struct plan_variable {
	u32 text;
	u32 kind;
};
_Static_assert(sizeof(struct plan_variable) == 8, "size");
_Static_assert(__builtin_offsetof(struct plan_variable, text) == 0, "Text");
_Static_assert(__builtin_offsetof(struct plan_variable, kind) == 4, "Kind");

struct plan_signal_action {
	u32 signal;
	u32 pad1;
	u64 handler;
	u64 flags;
	u64 restorer;
	u64 mask;
};
_Static_assert(sizeof(struct plan_signal_action) == 40, "size");
_Static_assert(__builtin_offsetof(struct plan_signal_action, signal) == 0, "Signal");
_Static_assert(__builtin_offsetof(struct plan_signal_action, handler) == 8, "Handler");
_Static_assert(__builtin_offsetof(struct plan_signal_action, flags) == 16, "Flags");
_Static_assert(__builtin_offsetof(struct plan_signal_action, restorer) == 24, "Restorer");
_Static_assert(__builtin_offsetof(struct plan_signal_action, mask) == 32, "Mask");
