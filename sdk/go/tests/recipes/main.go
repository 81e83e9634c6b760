// Selects orders by conditions, and makes messages of them by recipes. The case is in sdk/cases/recipes.
package main

import "PLUGIN_NAME/rowmill"

var (
	paid      = rowmill.NewCondition("changed_to(status, 'paid')")
	orderPaid = rowmill.NewRecipe(`{
		"body": {"event": "order_paid", "id": "{id}", "sum": "{price * quantity}"},
		"group": "customer-{customer}",
		"deduplication_id": "paid-{id}",
		"attributes": {"event": "order_paid", "status": "{status}"}
	}`)

	hasLines   = rowmill.NewCondition("op() = 'c' and lines is not null")
	orderLines = rowmill.NewRecipe(`{
		"for_each": "lines",
		"body": {"order": "{id}", "line": "{item_number()}", "sku": "{item()->'$.sku'}"},
		"group": "order-{id}"
	}`)

	paidDeleted  = rowmill.NewCondition("old.status = 'paid' and op() = 'd'")
	orderDeleted = rowmill.NewRecipe(`{
		"body": {
			"*": "{old_row_except(email, price)}",
			"cost": "{number(price)}",
			"day": "{date_format(created_at, '%d.%m.%Y')}"
		}
	}`)

	kept = rowmill.NewCondition("email like '%@example.com' or price > quantity * 100")
)

func row(r *rowmill.Row) {
	if paid.Holds(r) {
		r.Write(orderPaid)
	}
	if hasLines.Holds(r) {
		r.WriteTo("lines", orderLines)
	}
	if paidDeleted.Holds(r) {
		r.Write(orderDeleted)
	}
	if kept.Holds(r) {
		r.Keep()
	}
}

func init() {
	rowmill.Register(rowmill.Transform{
		Table: func(t *rowmill.Table) rowmill.Interest { return t.OnlyIf(t.Is("shop", "orders")) },
		Row:   row,
	})
}

func main() {}
