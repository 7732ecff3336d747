package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"slipway/cli"
	"slipway/engine/local"
	"slipway/ingress"
)

// Command is `slipway serve`.
func Command(v Version) *cobra.Command {
	var cfg Config
	c := &cobra.Command{
		Use: "serve", Short: "Run everything: API, registry, git, builds, runs, hosted services", Args: cli.NoArgs,
		Example: "  slipway serve --data-dir /srv/slipway --domain apps.example.com",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cfg.Complete(c.Flags(), os.Environ()); err != nil {
				return err
			}
			oomScore(300)
			// Rooms log by the default logger; there is one server in this process.
			slog.SetDefault(newLogger(cfg, c.ErrOrStderr()))
			return Run(c.Context(), cfg, v, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	cfg.Flags(c.Flags())
	return c
}

// oomScore makes the server die before hosted services and after builds when
// memory is short. A host that does not allow it is no reason not to serve.
func oomScore(n int) {
	_ = os.WriteFile("/proc/self/oom_score_adj", fmt.Appendf(nil, "%d", n), 0)
}

// Flags adds all settings of serve to a command that shows or checks them, and
// gives the function that completes them.
func Flags(f *pflag.FlagSet) func() (dataDir string, table [][3]string, err error) {
	var cfg Config
	cfg.Flags(f)
	return func() (string, [][3]string, error) {
		err := cfg.Complete(f, os.Environ())
		return cfg.DataDir, cfg.Table(f), err
	}
}

// StopCommand is `slipway stop`.
func StopCommand() *cobra.Command {
	var cfg Config
	var all bool
	c := &cobra.Command{
		Use: "stop", Short: "End the server of a data directory", Args: cli.NoArgs,
		Long:    "Ends the server; hosted services go on. With --all the ingress process, services and\nrunning actions end too, and nothing is left on the host but the data directory.",
		Example: "  slipway stop --data-dir /srv/slipway --all",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := cfg.Complete(c.Flags(), os.Environ()); err != nil {
				return err
			}
			return Stop(c.Context(), cfg, all, c.OutOrStdout())
		},
	}
	cfg.Flags(c.Flags())
	c.Flags().BoolVar(&all, "all", false, "end also the ingress process, services and running actions")
	return c
}

// Stop ends the server of cfg.DataDir, and with all everything that it left
// running. That there is nothing to end is no error, but said on out: the
// directory may be another than was meant.
func Stop(ctx context.Context, cfg Config, all bool, out io.Writer) error {
	if _, err := os.Stat(filepath.Join(cfg.DataDir, lockFile)); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(out, "nothing to stop: no server ever used %s (--data-dir)\n", cfg.DataDir)
		return nil
	}
	pid := holder(cfg.DataDir)
	lives := alive(pid, cfg.DataDir)
	if lives {
		if err := end(ctx, pid); err != nil {
			return err
		}
	}
	if !lives && !all {
		fmt.Fprintf(out, "nothing to stop: no server runs on %s; what one left running is ended by stop --all\n", cfg.DataDir)
	}
	if !all {
		return nil
	}
	l, err := takeLock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer l.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return errors.Join(
		ingress.StopRunning(ctx, ingressConfig(cfg, self)),
		local.StopAll(ctx, filepath.Join(cfg.DataDir, "engine")),
	)
}

// end asks a process to go and waits until it has; after the time that a
// server promises it is killed.
func end(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pid %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
			return nil
		} else if err != nil {
			return fmt.Errorf("end server %d: %w", pid, err)
		}
		gone, err := waitPidfd(ctx, fd, 15*time.Second)
		if gone || err != nil {
			return err
		}
	}
	return fmt.Errorf("server %d does not end", pid)
}

func waitPidfd(ctx context.Context, fd int, long time.Duration) (bool, error) {
	until := time.Now().Add(long)
	for {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		left := time.Until(until)
		if left <= 0 {
			return false, nil
		}
		// Short waits, so that ctx is looked at.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(min(left, 200*time.Millisecond).Milliseconds())+1)
		if n > 0 {
			return true, nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
	}
}
