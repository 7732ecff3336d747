package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"slipway/db"
	"slipway/engine/local"
	"slipway/image"
)

// ErrMissing is the error when something needed is missing; what it is has
// been printed.
var ErrMissing = errors.New("something that is needed is missing; each NEEDS above says how to mend it, and `slipway doctor --fix` does it")

// Command is `slipway doctor`. settings adds the flags of serve, so that their
// values and where they come from can be shown.
func Command(settings func(*pflag.FlagSet) func() (dataDir string, table [][3]string, err error)) *cobra.Command {
	var fix, deep, show bool
	c := &cobra.Command{
		Use: "doctor", Short: "Say what this machine has and lacks", Args: cobra.NoArgs,
		Example: "  slipway doctor --fix\n  slipway doctor --deep --data-dir /srv/slipway",
	}
	complete := settings(c.Flags())
	c.Flags().BoolVar(&fix, "fix", false, "run the commands that mend what is lacking")
	c.Flags().BoolVar(&deep, "deep", false, "check the database and the images in the store too")
	c.Flags().BoolVar(&show, "settings", false, "show every setting and where it comes from")
	c.RunE = func(c *cobra.Command, _ []string) error {
		dataDir, table, err := complete()
		if err != nil {
			return err
		}
		out := c.OutOrStdout()
		if show {
			for _, r := range table {
				fmt.Fprintf(out, "%-18s %-30s %s\n", r[0], r[1], r[2])
			}
			fmt.Fprintln(out)
		}
		l := Look(c.Context(), dataDir)
		if fix {
			if err := Fix(c.Context(), out, l); err != nil {
				return err
			}
			l = Look(c.Context(), dataDir)
		}
		missing := Print(out, l)
		if deep {
			deepMissing, err := lookDeep(c.Context(), out, dataDir, listen(table))
			if err != nil {
				return err
			}
			missing = missing || deepMissing
		}
		if missing {
			return ErrMissing
		}
		return nil
	}
	return c
}

func listen(table [][3]string) string {
	for _, r := range table {
		if r[0] == "listen" {
			return r[1]
		}
	}
	return ""
}

// lookDeep asks a running server, or takes the lock and looks itself.
func lookDeep(ctx context.Context, out io.Writer, dataDir, listen string) (bool, error) {
	file := filepath.Join(dataDir, "slipway.db")
	if !exists(file) {
		return Print(out, []Finding{good("store", "there is none yet")}), nil
	}
	l, err := os.OpenFile(filepath.Join(dataDir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer l.Close()
	if unix.Flock(int(l.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, ask(ctx, out, dataDir, listen)
	}
	return Print(out, Deep(ctx, file, filepath.Join(dataDir, "engine"))), nil
}

// Deep checks a data directory that no server uses.
func Deep(ctx context.Context, file, engineDir string) []Finding {
	var l []Finding
	say := func(what string, err error) {
		if err != nil {
			l = append(l, Finding{Missing, what, err.Error(), nil})
			return
		}
		l = append(l, good(what, "whole"))
	}
	d, err := db.Open(ctx, file)
	if err != nil {
		say("store", err)
		d = nil
	} else {
		say("store", d.Check(ctx))
	}
	say("image store", local.Verify(ctx, engineDir, func(ctx context.Context, e *local.Engine) error {
		if d == nil {
			return nil // who knows what there should be
		}
		return image.New(image.Config{}, d, nil, e.Images(), e.Blobs()).Check(ctx)
	}))
	if d != nil {
		if err := d.Close(); err != nil {
			say("store", err)
		}
	}
	return l
}

// ask lets the running server check itself.
func ask(ctx context.Context, out io.Writer, dataDir, listen string) error {
	token, err := os.ReadFile(filepath.Join(dataDir, "admin-token"))
	if err != nil {
		return fmt.Errorf("a server runs on %s, and its admin-token cannot be read: %w", dataDir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+listen+"/slipway/v1/server:check", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("a server runs on %s but does not answer on %s (give its --listen): %w", dataDir, listen, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the running server found: %s", strings.TrimSpace(string(b)))
	}
	Print(out, []Finding{good("store", "whole, says the running server"), good("image store", "whole, says the running server")})
	return nil
}
