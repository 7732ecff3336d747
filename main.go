// Command slipway takes source from git, builds images, runs them and hosts
// them. It looks at its first argument and hands over.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"slipway/cli"
	"slipway/doctor"
	"slipway/engine/local"
	"slipway/ingress"
	"slipway/serve"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

func main() {
	// The roles of processes that serve starts come first: they want nothing of
	// what follows.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "ingress":
			os.Exit(ingress.Main(os.Args[2:]))
		case "checkdb":
			os.Exit(local.CheckDB(os.Args[2:]))
		}
	}
	// What the caller left open would live on in the containers' monitors.
	_ = unix.CloseRange(3, 1<<20, unix.CLOSE_RANGE_CLOEXEC)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// run gives the exit code: 0 done, 1 failed, 2 wrong usage, or the container's
// own.
func run(ctx context.Context, args []string) int {
	v := serve.NewVersion(version, commit)
	root := cli.Root()
	root.AddCommand(serve.Command(v), serve.StopCommand(), doctor.Command(serve.Flags), versionCommand(v))
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var code cli.Code
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintln(os.Stderr, "slipway:", err)
	var usage *cli.Usage
	var wrong *serve.Wrong
	if errors.As(err, &usage) || errors.As(err, &wrong) {
		return 2
	}
	return 1
}

func versionCommand(v serve.Version) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "version", Short: "Say what this program is made of", Example: "  slipway version --json", Args: cli.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return v.Print(c.OutOrStdout(), asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}
