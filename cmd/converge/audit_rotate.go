package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/converge-agents/converge/identity"
	"github.com/converge-agents/converge/network"
)

func newAuditRotateKey(f *auditFlags) *cobra.Command {
	var from configFlags
	var passphraseFile string
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Change the key that signs the receipts of a configuration",
		Long: `Rotate-key makes another key for the receipts of a configuration, while its network does not run. The key of
so far signs a last checkpoint and names the next one, which then takes its place in audit.pem; the key of so far is
gone. What it has signed stays verified: "converge audit verify" follows the keys from any of them that --key names, and
prints them.

Note the new ID and the hash that are printed, and pin both from then on: who had stolen the key of so far can
make another end of the log with it, and nothing that the next one has signed.

If this is interrupted, the key of so far is in force or the next one is; the next start of the network finds out which.
The new key is sealed with the passphrase that CONVERGE_PASSPHRASE holds, or the first line of the file that
--passphrase-file names, if there is one.`,
		Example: `  converge audit rotate-key -c converge.yaml`,
		Args:    words(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.key != (hashFlag{}) || f.head != (hashFlag{}) {
				return usageError(cmd, fmt.Errorf("--key and --head are for what reads receipts"))
			}
			r, err := rotateAuditKey(cmd, &from, passphraseFile)
			if err != nil {
				return err
			}
			return printAuditRotation(cmd.OutOrStdout(), r, f.output)
		},
	}
	flags := cmd.Flags()
	from.add(flags)
	flags.StringVar(&passphraseFile, "passphrase-file", "", "`file` with the passphrase of the keys (instead of CONVERGE_PASSPHRASE)")
	return cmd
}

func rotateAuditKey(cmd *cobra.Command, from *configFlags, passphraseFile string) (r network.AuditRotation, err error) {
	c, err := from.load()
	if err != nil {
		return r, err
	}
	passphrase, err := readPassphrase(passphraseFile)
	if err != nil {
		return r, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return network.RotateAuditKey(cmd.Context(), c, network.Options{Logger: log, Passphrase: passphrase})
}

// auditRotation is the JSON form of a network.AuditRotation.
type auditRotation struct {
	Key     identity.ID `json:"key"`
	File    string      `json:"file"`
	Before  identity.ID `json:"before"`
	Receipt uint64      `json:"receipt"`
	Time    time.Time   `json:"time"`
	Head    string      `json:"head"`
}

func printAuditRotation(w io.Writer, r network.AuditRotation, f format) error {
	if f == "json" {
		return json.NewEncoder(w).Encode(auditRotation{r.To, r.File, r.From, r.Receipt, r.Time, r.Head})
	}
	_, err := fmt.Fprintf(w, "key        %s in %s\nbefore     %s, which signed up to receipt %d\nhead       %s\n", r.To, r.File, r.From, r.Receipt, r.Head)
	return err
}
