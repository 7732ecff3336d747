package source

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

func links(fi fs.FileInfo) uint64 { return fi.Sys().(*syscall.Stat_t).Nlink }

func mkfifo(name string) error { return unix.Mkfifo(name, 0o644) }
