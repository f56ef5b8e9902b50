package config

import (
	"maps"
	"slices"
)

// Sandbox says what a command may do, beside reading the files of the system, its own folder dir and those of paths,
// and writing to a folder that is made for each call (its TMPDIR, and the current one unless dir is given). The rest is
// kept from it as far as the kernel can: the log says at start what is in force.
type Sandbox struct {
	// Read are files and folders that the command may read and execute, and Write those that it may change too,
	// relative to the current directory.
	Read  []string `key:"read"`
	Write []string `key:"write"`
	// Network lets it use IP, to any address. Default false.
	Network bool `key:"network"`
	// UnixSockets lets it connect to sockets of this machine. Default false.
	UnixSockets bool `key:"unix_sockets"`
	// Limits bound each of its processes.
	Limits ToolLimits `key:"limits"`
	// RequireSandbox refuses to start where not all of it is in force. Default false.
	RequireSandbox bool `key:"require_sandbox"`
	// UnsafeNoSandbox runs the command without all that: it may do what this process may. Not together with the
	// others. Default false.
	UnsafeNoSandbox bool `key:"unsafe_no_sandbox"`
}

// ToolLimits bound a process of a command. Zero values are the defaults of package tool/command.
type ToolLimits struct {
	// CPU is processor time. Default: as much as there is until the call's timeout.
	CPU Duration `key:"cpu"`
	// Memory is private writable memory. Default 2GiB.
	Memory Size `key:"memory"`
	// AddressSpace is all that is mapped. Default 64GiB.
	AddressSpace Size `key:"address_space"`
	// FileSize is the size up to which a file may be written. Default 1GiB.
	FileSize Size `key:"file_size"`
	// OpenFiles is the number of descriptors. Default 1024.
	OpenFiles int `key:"open_files"`
	// Processes is the number of processes and threads of the user, in the tool and outside; not for root.
	// Default 4096.
	Processes int `key:"processes"`
}

func (k checker) command(key string, t Tool) {
	if len(t.Command) > 0 && t.Command[0] == "" {
		k.bad(item(child(key, "command"), 0), "", "the program has no name")
	}
	if t.Stdin != "" && t.StdinFile != "" {
		k.bad(child(key, "stdin_file"), "", "not together with stdin")
	}
	k.environment(key, t)
	for _, param := range slices.Sorted(maps.Keys(t.Paths)) {
		if t.Paths[param] == "" {
			k.bad(child(child(key, "paths"), param), `"." is the current directory`, "want a folder")
		}
	}
	k.oneOf(child(key, "output"), t.Output, "text", "word", "json", "bytes")
	k.sandbox(key, t.Sandbox)
}

func (k checker) sandbox(key string, s Sandbox) {
	k.grants(child(key, "read"), s.Read)
	k.grants(child(key, "write"), s.Write)
	limits := child(key, "limits")
	k.notNegative(child(limits, "cpu"), s.Limits.CPU)
	k.sizeNotNegative(child(limits, "memory"), s.Limits.Memory)
	k.sizeNotNegative(child(limits, "address_space"), s.Limits.AddressSpace)
	k.sizeNotNegative(child(limits, "file_size"), s.Limits.FileSize)
	k.atLeast(child(limits, "open_files"), s.Limits.OpenFiles, 0)
	k.atLeast(child(limits, "processes"), s.Limits.Processes, 0)
	if !s.UnsafeNoSandbox {
		return
	}
	for _, name := range []string{"read", "write", "network", "unix_sockets", "limits", "require_sandbox"} {
		if k.origin.given(child(key, name)) {
			k.bad(child(key, name), "leave one of them out", "not together with unsafe_no_sandbox")
		}
	}
}

// grants checks what a program is granted.
func (k checker) grants(key string, paths []string) {
	for i, path := range paths {
		if path == "" {
			k.bad(item(key, i), `"." is the current directory`, "want a file or a folder")
		}
	}
}

func (k checker) sizeNotNegative(key string, size Size) {
	if size < 0 {
		k.bad(key, "", "want a size that is not negative, not %s", size)
	}
}
