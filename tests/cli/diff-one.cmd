diff plan-degrees.plan
