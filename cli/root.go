// Package cli is the command line: clients of the HTTP API, and the demo. It
// knows nothing of the rooms behind that API.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"
)

// Usage is wrong usage; the program ends with 2.
type Usage struct{ msg string }

func (u *Usage) Error() string { return u.msg }

// Code is an exit code that needs no more words.
type Code int

func (c Code) Error() string { return "exit " + strconv.Itoa(int(c)) }

// Usagef makes a *Usage.
func Usagef(format string, a ...any) error { return &Usage{fmt.Sprintf(format, a...)} }

// NoArgs refuses arguments.
func NoArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("%s takes no argument %q; see %s --help", c.CommandPath(), args[0], c.CommandPath())
	}
	return nil
}

// who says which server and token a client command uses.
type who struct{ url, token, dataDir string }

func (w *who) flags(c *cobra.Command) {
	c.Flags().StringVar(&w.url, "url", "", "`URL` of the server (SLIPWAY_URL, or http://127.0.0.1:8080)")
	c.Flags().StringVar(&w.token, "token", "", "`token` (SLIPWAY_TOKEN)")
	c.Flags().StringVar(&w.dataDir, "data-dir", "/var/lib/slipway", "`directory` whose admin-token is used when no other token is known")
}

func (w *who) client() (*Client, error) { return Find(w.url, w.token, w.dataDir) }

// Root makes the command tree of the client commands.
func Root() *cobra.Command {
	root := &cobra.Command{
		Use: "slipway", Short: "From git repository to running container",
		SilenceUsage: true, SilenceErrors: true,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return Usagef("there is no command %q; see slipway --help", args[0])
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return Usagef("%v; see %s --help", err, c.CommandPath())
	})
	root.AddCommand(demoCommand(), imageCommand(), pipelineCommand())
	return root
}

func demoCommand() *cobra.Command {
	var w who
	var own bool
	c := &cobra.Command{
		Use: "demo", Short: "Take the bundled example from source to a hosted page", Args: NoArgs,
		Long:    "Pushes the bundled example to a running server, runs its pipeline, hosts the image\nand prints the address and what the page says. It is safe to repeat.",
		Example: "  slipway demo\n  slipway demo --own",
		RunE: func(c *cobra.Command, _ []string) error {
			if own {
				return OwnDemo(c.Context(), c.OutOrStdout())
			}
			cl, err := w.client()
			if err != nil {
				return err
			}
			return Demo(c.Context(), cl, c.OutOrStdout())
		},
	}
	w.flags(c)
	c.Flags().BoolVar(&own, "own", false, "start a server on free ports in a temporary directory, and remove everything at the end")
	return c
}

func imageCommand() *cobra.Command {
	var w who
	var name, workspace, file string
	load := &cobra.Command{
		Use: "load", Short: "Store the images of an OCI or docker archive", Args: NoArgs,
		Long:    "Stores an archive under any name, also of an outside registry, for one workspace:\nfor machines without internet.",
		Example: "  slipway image load -t docker.io/library/alpine:3.22 < alpine.tar",
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := w.client()
			if err != nil {
				return err
			}
			in := c.InOrStdin()
			if file != "" {
				f, err := os.Open(file)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return loadImage(c.Context(), cl, workspace, name, in, c.OutOrStdout())
		},
	}
	w.flags(load)
	load.Flags().StringVarP(&name, "tag", "t", "", "`name` to store the only image of the archive under")
	load.Flags().StringVar(&workspace, "workspace", "default", "`workspace` that gets it")
	load.Flags().StringVarP(&file, "input", "i", "", "`file` to read instead of standard input")
	return group("image", "Images of the server's registry", load)
}

func loadImage(ctx context.Context, c *Client, workspace, name string, in io.Reader, out io.Writer) error {
	q := url.Values{"workspace": {workspace}}
	if name != "" {
		q.Set("name", name)
	}
	var l struct {
		Images []struct{ Name, Tag, Digest string }
	}
	if err := c.Do(ctx, "POST", "/slipway/v1/images:load?"+q.Encode(), io.NopCloser(in), &l); err != nil {
		return err
	}
	if len(l.Images) == 0 {
		return errors.New("the archive holds no image with a name; give one with -t")
	}
	for _, i := range l.Images {
		fmt.Fprintf(out, "%s:%s %s\n", i.Name, i.Tag, i.Digest)
	}
	return nil
}

// executable is this program, for the server of OwnDemo.
func executable() (string, error) {
	p, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(p)
}
