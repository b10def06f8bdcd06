// A container as the book's chapter 3 designs it: the program starts itself
// again as the init, sends it the words of COMMAND through a pipe, and limits it
// by a cgroup. The init changes the root by pivot_root(2) and becomes COMMAND.
// mydocker2 ROOT COMMAND [ARG]...
package main

import (
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const cgroup = "/sys/fs/cgroup/mydocker2"

func main() {
	if os.Args[1] == "init" {
		log.Fatal(initialise(os.Args[2]))
	}
	run(os.Args[1], os.Args[2:])
}

func run(root string, words []string) {
	read, write, err := os.Pipe()
	if err != nil {
		log.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "init", root)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC |
			syscall.CLONE_NEWPID | syscall.CLONE_NEWNS |
			syscall.CLONE_NEWNET,
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// It is descriptor 3 of the init, and nobody closes it there.
	cmd.ExtraFiles = []*os.File{read}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	limit(cmd.Process.Pid)
	io.WriteString(write, strings.Join(words, "\x00"))
	write.Close()
	err = cmd.Wait()
	os.Remove(cgroup)
	if err != nil {
		os.Exit(1)
	}
}

func limit(pid int) {
	os.Mkdir(cgroup, 0755)
	for _, it := range [][2]string{
		{"memory.max", "100M"},
		{"cgroup.procs", strconv.Itoa(pid)},
	} {
		file := filepath.Join(cgroup, it[0])
		if err := os.WriteFile(file, []byte(it[1]), 0644); err != nil {
			log.Print(err)
		}
	}
}

func initialise(root string) error {
	text, err := io.ReadAll(os.NewFile(3, "pipe"))
	if err != nil {
		return err
	}
	words := strings.Split(string(text), "\x00")
	for _, it := range []struct {
		from, at, kind string
		flags          uintptr
	}{
		{"", "/", "", syscall.MS_PRIVATE | syscall.MS_REC},
		{root, root, "", syscall.MS_BIND | syscall.MS_REC},
	} {
		if err := syscall.Mount(it.from, it.at, it.kind, it.flags, ""); err != nil {
			return err
		}
	}
	old := filepath.Join(root, ".old")
	os.Mkdir(old, 0700)
	if err := syscall.PivotRoot(root, old); err != nil {
		return err
	}
	os.Chdir("/")
	if err := syscall.Unmount("/.old", syscall.MNT_DETACH); err != nil {
		return err
	}
	os.Remove("/.old")
	syscall.Mount("proc", "/proc", "proc", 0, "")
	syscall.Mount("tmpfs", "/dev", "tmpfs", 0, "mode=755")
	syscall.Sethostname([]byte("mydocker2"))
	program, err := exec.LookPath(words[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, words, os.Environ())
}
